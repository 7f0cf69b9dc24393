"""Versions of data, code and settings, all computed from content.

A data version is the md5 that DVC computes for a folder, so that Dagster's data version, ``dvc.lock`` and the MLflow
dataset digest are the same string.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError

PACKAGE = Path(__file__).resolve().parent

# Types and wiring that every module imports. A change there cannot change a stage's result: settings count by value,
# and the table of stages only names what the other hashes already cover.
_EXCLUDED_MODULES = ("errors", "profile", "stages", "tracking.run_logger")


def file_md5(path: Path) -> str:
    """Hex md5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def folder_version(folder: Path) -> str:
    """Data version of a folder: ``<md5>.dir`` as DVC computes it (empty sub-folders do not count).

    Raises DataError if the folder is missing.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; make it with `rsqa run {folder.name}` or get it with `dvc pull`")
    return _folder_version(folder.resolve(), _signature(folder.resolve()))


def source_version(path: Path) -> str:
    """Version of an external file or folder."""
    return folder_version(path) if path.is_dir() else file_md5(path)


def settings_version(settings: Any) -> str:
    """Hex sha256 of the canonical JSON of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def training_key(inputs: Mapping[str, Path], settings: Any, module: str) -> str:
    """Hex hash of the inputs' versions, the settings and the module's code: all that a training's result depends on."""
    versions = {name: folder_version(folder) for name, folder in inputs.items()}
    return settings_version({"inputs": versions, "settings": settings, "code": code_version(module)})[:32]


def code_files(module: str) -> list[Path]:
    """Files of the package that the module's result depends on: itself, all its imports, and data files next to them.

    ``module`` is named relative to the package, e.g. ``score_model.training.train``. Imports inside functions count.
    """
    modules = sorted(_import_closure(module))
    files = {_module_file(name) for name in modules}
    for folder in {file.parent for file in files} - {PACKAGE}:
        files.update(_data_files(folder))
    return sorted(files)


@cache
def code_version(module: str) -> str:
    """Hex sha256 over the `code_files`: statements of Python files, bytes of data files.

    Comments, docstrings and layout do not count, so that rewording does not make outputs stale.
    """
    digest = hashlib.sha256()
    for file in code_files(module):
        content = _read_module(file)[0] if file.suffix == ".py" else file_md5(file)
        digest.update(f"{file.relative_to(PACKAGE).as_posix()} {content}\n".encode())
    return digest.hexdigest()


@cache
def _read_module(file: Path) -> tuple[str, tuple[str, ...]]:
    """Hex sha256 of a Python file's syntax tree without docstrings, and the modules of the package that it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # also the strings below attributes: an expression that is a constant has no effect
            node.body = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
    prefix = PACKAGE.name + "."
    below = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    imports = tuple(sorted(name for name in below if _is_module(name)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


@cache
def _folder_version(folder: Path, signature: str) -> str:
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())
    entries = [{"md5": file_md5(p), "relpath": p.relative_to(folder).as_posix()} for p in files]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def _signature(folder: Path) -> str:
    """Names, sizes and times: shows within one process whether a folder must be hashed again."""
    stats = [(p.relative_to(folder).as_posix(), p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
    return hashlib.md5(
        repr([(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats]).encode()
    ).hexdigest()


def _import_closure(module: str) -> set[str]:
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or any(name == part or name.startswith(part + ".") for part in _EXCLUDED_MODULES):
            continue
        found.add(name)
        waiting.extend(_read_module(_module_file(name))[1])
    return found


def _module_path(name: str) -> Path:
    return PACKAGE.joinpath(*name.split("."))


def _is_module(name: str) -> bool:
    path = _module_path(name)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _module_file(name: str) -> Path:
    path = _module_path(name)
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def _data_files(folder: Path) -> list[Path]:
    """Prompts, task files and templates next to a module. Weights count as sources instead."""
    suffixes = {".yaml", ".json", ".html", ".jinja", ".css", ".txt"}
    return [p for p in folder.rglob("*") if p.suffix in suffixes and "checkpoints" not in p.parts]
