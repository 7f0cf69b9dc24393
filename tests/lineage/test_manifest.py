"""The append-only manifests of what made an output."""

from __future__ import annotations

from pathlib import Path

from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore, Recipe


def _manifest(version: str, code: str = "c") -> Manifest:
    recipe = Recipe(code_version=code, settings={"seed": 1}, inputs={"up": "u.dir"}, sources={"f.csv": "9"})
    return Manifest(
        "pair_scores",
        version,
        recipe,
        {"rows": 3.0},
        [{"name": "rows_add_up", "passed": True}],
        {"git_commit": "x"},
    )


def test_appended_manifests_are_found_by_version(tmp_path: Path) -> None:
    store = ManifestStore(tmp_path)
    for version in ("one.dir", "two.dir"):
        store.append(_manifest(version))
    assert store.find("pair_scores", "one.dir") == _manifest("one.dir")
    assert store.find("pair_scores", "three.dir") is None
    assert [m.data_version for m in store.history("pair_scores")] == ["one.dir", "two.dir"]


def test_the_newest_manifest_of_a_version_wins(tmp_path: Path) -> None:
    store = ManifestStore(tmp_path)
    store.append(_manifest("one.dir", code="old"))
    store.append(_manifest("one.dir", code="new"))
    found = store.find("pair_scores", "one.dir")
    assert found is not None and found.recipe.code_version == "new"


def test_an_incomplete_last_line_loses_only_itself(tmp_path: Path) -> None:
    store = ManifestStore(tmp_path)
    store.append(_manifest("one.dir"))
    path = tmp_path / "pair_scores.jsonl"
    path.write_text(path.read_text() + '{"asset": "pair_sc')
    store.append(_manifest("two.dir"))
    assert [m.data_version for m in store.history("pair_scores")] == ["one.dir", "two.dir"]


def test_adopt_adds_only_unknown_manifests(tmp_path: Path) -> None:
    pulled, mine = ManifestStore(tmp_path / "pulled"), ManifestStore(tmp_path / "mine")
    mine.append(_manifest("one.dir"))
    for version in ("one.dir", "two.dir"):
        pulled.append(_manifest(version))
    mine.adopt(pulled.folder)
    mine.adopt(pulled.folder)
    assert [m.data_version for m in mine.history("pair_scores")] == ["one.dir", "two.dir"]
