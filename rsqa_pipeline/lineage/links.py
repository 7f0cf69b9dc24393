"""Links between records: each names the hash of the record before it, and of the record of every input.

The links are facts of the run (`Manifest.run`), so equal outputs still have an equal bundle. Records of earlier
versions of this package have none and count as unlinked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore
from rsqa_pipeline.versions import settings_version

RECORD, PREVIOUS, INPUT = "record", "previous_record", "input_record."
"""Keys of `Manifest.run`: the record's own hash, that of the asset's record before it, those of the inputs' records."""
NONE = "none"
"""Link of an asset's first record."""


def record_hash(record: Mapping[str, Any]) -> str:
    """Hex sha256 of a record, as the manifest's line holds it, without the hash itself."""
    facts = {key: value for key, value in record["run"].items() if key != RECORD}
    return settings_version({**record, "run": facts})


def records(folder: Path, asset: str) -> list[dict[str, Any]]:
    """The asset's lines that are records, oldest first, with all fields that stand in them."""
    path = folder / f"{asset}.jsonl"
    found = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            record = json.loads(line)
            sound = isinstance(record["run"], dict) and isinstance(record["recipe"]["inputs"], dict)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if sound and "data_version" in record:
            found.append(record)
    return found


def linked(store: ManifestStore, manifest: Manifest) -> Manifest:
    """The manifest with its links; called with the profile's lock held, right before it is appended."""
    before = records(store.folder, manifest.asset)
    links = {PREVIOUS: record_hash(before[-1]) if before else NONE}
    for name, version in manifest.recipe.inputs.items():
        made = [record for record in records(store.folder, name) if record["data_version"] == version]
        links[INPUT + name] = record_hash(made[-1]) if made else NONE
    manifest = replace(manifest, run={**manifest.run, **links})
    return replace(manifest, run={**manifest.run, RECORD: record_hash(asdict(manifest))})
