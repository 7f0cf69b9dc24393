"""The library's modules import each other in one direction, imports for type checks included."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import rsqa_pipeline

ROOT = Path(rsqa_pipeline.__file__).parent
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def imported_by(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found & set(MODULES)


def test_no_circle_of_imports() -> None:
    graph = {module: imported_by(path) for module, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises CycleError, with the modules of the circle


def test_packages_import_each_other_in_one_direction() -> None:
    def package(module: str) -> str:
        parts = module.split(".")
        return parts[1] if len(parts) > 2 else module

    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        others = {package(name) for name in imported_by(path)} - {package(module)}
        graph.setdefault(package(module), set()).update(others)
    TopologicalSorter(graph).prepare()
