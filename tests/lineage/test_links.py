"""Records linked by hashes."""

from __future__ import annotations

import json
from pathlib import Path

from rsqa_pipeline.audit.record_checks import check_links
from rsqa_pipeline.lineage.links import INPUT, NONE, PREVIOUS, RECORD, linked, record_hash, records
from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore, Recipe


def _append(folder: Path, asset: str, version: str, inputs: dict[str, str] | None = None, link: bool = True) -> None:
    store, recipe = ManifestStore(folder), Recipe("c", {"seed": 1}, inputs or {}, {})
    manifest = Manifest(asset, version, recipe, {"rows": 3.0}, [], {"git_commit": "x"})
    store.append(linked(store, manifest) if link else manifest)


def test_each_record_names_the_one_before_it_and_its_inputs(tmp_path: Path) -> None:
    _append(tmp_path, "up", "u.dir", link=False)
    _append(tmp_path, "down", "1.dir", {"up": "u.dir", "gone": "g.dir"})
    _append(tmp_path, "down", "2.dir", {"up": "u.dir"})
    (up,), (first, second) = records(tmp_path, "up"), records(tmp_path, "down")
    assert first["run"][PREVIOUS] == NONE == first["run"][INPUT + "gone"]
    assert second["run"][PREVIOUS] == record_hash(first) == first["run"][RECORD]
    assert first["run"][INPUT + "up"] == record_hash(up)
    assert check_links(tmp_path, "down") == check_links(tmp_path, "up") == []
    assert ManifestStore(tmp_path).find("up", "u.dir") is not None


def test_an_edit_breaks_the_record_and_what_names_it(tmp_path: Path) -> None:
    _append(tmp_path, "up", "u.dir", link=False)
    _append(tmp_path, "down", "1.dir", {"up": "u.dir"})
    _append(tmp_path, "down", "2.dir")
    for asset, where in (("up", ["up"]), ("down", ["down", "down"])):
        path = tmp_path / f"{asset}.jsonl"
        before = path.read_text()
        first, *others = before.splitlines()
        edited = {**json.loads(first), "metrics": {"rows": 4.0}}
        path.write_text("\n".join([json.dumps(edited), *others]) + "\n")
        assert [(f.kind, f.where) for f in check_links(tmp_path, "down")] == [("edited_manifest", n) for n in where]
        path.write_text(before)
