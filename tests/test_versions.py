"""Data versions are DVC's; code versions follow imports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from dvc_objects.fs.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import sha256
from rsqa_pipeline.versions import (
    PACKAGE,
    _read_module,
    code_files,
    code_version,
    file_md5,
    folder_version,
    settings_version,
)


def test_folder_version_by_hand(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.txt").write_text("one")
    entries = [
        {"md5": hashlib.md5(b"one").hexdigest(), "relpath": "a/c.txt"},
        {"md5": hashlib.md5(b"two").hexdigest(), "relpath": "b.txt"},
    ]
    expected = hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
    assert folder_version(tmp_path) == expected


def test_folder_version_equals_dvc(tmp_path: Path) -> None:
    repo = Repo.init(str(tmp_path / "repo"), no_scm=True)
    folder = tmp_path / "repo" / "data"
    (folder / "sub folder").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("é.bin", "a-b", "a.b", "sub folder/a", "Z", "0"):
        (folder / name).write_bytes(name.encode() * 3)
    by_dvc = build(repo.cache.local, str(folder), LocalFileSystem(), "md5", dry_run=True)[2].hash_info.value
    assert folder_version(folder) == by_dvc


def test_one_flipped_byte_changes_the_version(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"\x00" * 100)
    before = folder_version(tmp_path)
    file.write_bytes(b"\x00" * 99 + b"\x01")
    assert folder_version(tmp_path) != before


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rsqa run pair_scores.*dvc pull"):
        folder_version(tmp_path / "pair_scores")


def test_code_files_follow_imports_and_data() -> None:
    files = {path.relative_to(PACKAGE).as_posix() for path in code_files("benchmarks.clip_benchmark")}
    assert "benchmarks/clip_benchmark.py" in files
    assert "statistics.py" in files  # imported, directly or not
    assert any(name.startswith("benchmarks/tasks/") for name in files)  # data that the module reads
    assert not any(name.startswith("finetuned_models/finetune") for name in files)
    assert not any(name.startswith("profile/") for name in files)  # settings count by value


def test_code_version_is_stable_and_differs_between_modules() -> None:
    assert code_version("source_pairs.image_text_pairs") == code_version("source_pairs.image_text_pairs")
    assert code_version("source_pairs.image_text_pairs") != code_version("source_pairs.benchmark_sets")


def test_settings_version_ignores_order_only() -> None:
    assert settings_version({"a": 1, "b": [1, 2]}) == settings_version({"b": [1, 2], "a": 1})
    assert settings_version({"a": 1}) != settings_version({"a": 2})


@given(st.lists(st.text(max_size=5), min_size=2, max_size=4))
def test_sha256_distinguishes_parts(parts: list[str]) -> None:
    joined = "".join(parts)
    assert sha256(*parts) == sha256(*[part.encode() for part in parts])
    assert sha256(*parts) != sha256(joined)


def test_file_md5(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert file_md5(tmp_path / "x") == "5d41402abc4b2a76b9719d911017c592"


def _module(folder: Path, text: str) -> str:
    """The version of the statements of one module."""
    file = folder / "module.py"
    file.write_text(text)
    _read_module.cache_clear()
    return _read_module(file)[0]


def test_wording_does_not_change_the_code_version(tmp_path: Path) -> None:
    plain = "class A:\n    x: int = 1\n\n    def f(self) -> str:\n        return 'a'\n"
    worded = (
        '"""Module."""\n\n# comment\nclass A:\n    """Class."""\n\n    x: int = 1\n    """Attribute."""\n\n'
        '    def f(self) -> str:\n        """Function."""\n        return "a"  # layout and quotes do not count\n'
    )
    assert _module(tmp_path, plain) == _module(tmp_path, worded)
    assert _module(tmp_path, plain) != _module(tmp_path, plain.replace("'a'", "'b'"))
    assert _module(tmp_path, plain) != _module(tmp_path, plain.replace("int = 1", "int = 2"))
