"""Outputs on disk against their records, and subsets against their rules."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.materialization.materialize import input_folders, restricted_profile
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import file_md5, folder_version

_CACHE = Path(".dvc/cache/files/md5")
"""Where DVC keeps the recorded files of this checkout, unless its configuration says otherwise."""


def changed_files(asset: str, folder: Path, recorded: str) -> list[Finding]:
    """What differs between an output and its recorded version, file by file where DVC's cache holds that version."""
    listing = _cached(recorded)
    if listing is None:
        return [Finding("changed_byte", asset, f"{folder} is {folder_version(folder)}, recorded was {recorded}")]
    wanted = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found = [Finding("changed_byte", asset, f"{folder / name} was not there") for name in sorted(there - set(wanted))]
    for name, md5 in sorted(wanted.items()):
        if name not in there:
            found.append(Finding("missing_output", asset, f"{folder / name} is missing"))
        elif file_md5(folder / name) != md5:
            kind, detail = _difference(folder / name, _cached(md5))
            found.append(Finding(kind, asset, f"{folder / name}: {detail}"))
    return found


def _cached(version: str) -> Path | None:
    """The cached object of a version; None if there is none or it was changed too."""
    path = _CACHE / version[:2] / version[2:]
    return path if path.is_file() and file_md5(path) == version.removesuffix(".dir") else None


def _difference(path: Path, original: Path | None) -> tuple[str, str]:
    """Kind and description of how a file differs from what was recorded."""
    if original is None or path.suffix != ".parquet":
        return "changed_byte", "other bytes than recorded"
    try:
        now, before = pq.read_table(path), pq.read_table(original)
    except (pa.ArrowException, OSError):
        return "changed_byte", "other bytes than recorded, and no table"
    if now.schema.names != before.schema.names:
        return "changed_byte", "other columns than recorded"
    rows, recorded = _rows(now), _rows(before)
    lost, added = Counter(recorded) - Counter(rows), Counter(rows) - Counter(recorded)
    if not lost and not added:
        moved = [number for number, (a, b) in enumerate(zip(rows, recorded, strict=True), start=1) if a != b]
        if not moved:
            return "changed_byte", "other bytes than recorded, with the same rows"
        return "reordered_row", f"{len(moved)} rows stand elsewhere, the first is row {moved[0]}"
    if lost and len(rows) < len(recorded):
        return "missing_row", f"{len(recorded) - len(rows)} of {len(recorded)} rows are missing"
    if "score" in now.column_names and _without_score(now).equals(_without_score(before)):
        return "replaced_score", f"{sum(added.values())} scores are not the recorded ones"
    return "changed_byte", f"{sum(added.values())} rows are not the recorded ones"


def _rows(table: pa.Table) -> list[str]:
    return [json.dumps(row, sort_keys=True, default=str) for row in table.to_pylist()]


def _without_score(table: pa.Table) -> pa.Table:
    return table.drop_columns(["score"])


def wrong_subset(profile: Profile, asset: Asset) -> list[Finding]:
    """Compares a subset's ids with what the asset's function selects from the tables on disk."""
    folder, inputs = asset.folder(profile), input_folders(profile, asset)
    versions = tuple((name, path.as_posix(), folder_version(path)) for name, path in inputs.items())
    try:
        wanted = _selected(_Task(profile, asset), versions, restricted_profile(profile, asset).model_dump_json())
        kept = [(row["sample_id"], row["kind"]) for row in pq.read_table(folder / "ids.parquet").to_pylist()]
    except (RsqaError, pa.ArrowException, OSError, KeyError):
        return []  # an input that cannot be read is a finding of its own
    if kept == wanted:
        return []
    extra, lost = sorted(set(kept) - set(wanted)), sorted(set(wanted) - set(kept))
    first = (extra or lost or [("none, the order differs", "")])[0][0]
    detail = f"{len(extra)} samples too many, {len(lost)} too few by the rule; the first: {first}"
    return [Finding("wrong_subset", asset.name, detail)]


class _Task:
    """Profile and asset, equal to any other: the versions and settings next to it say what is selected from."""

    def __init__(self, profile: Profile, asset: Asset) -> None:
        self.profile, self.asset = profile, asset

    def __hash__(self) -> int:
        return hash(self.asset.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Task) and other.asset.name == self.asset.name


@cache
def _selected(task: _Task, versions: tuple[tuple[str, str, str], ...], settings: str) -> list[tuple[Any, Any]]:
    inputs = {name: Path(folder) for name, folder, _ in versions}
    with tempfile.TemporaryDirectory() as scratch:
        with contextlib.redirect_stderr(io.StringIO()):  # its warnings were shown when it was made
            task.asset.load()(
                inputs,
                Path(scratch),
                restricted_profile(task.profile, task.asset),
                SilentLogger(),
                **task.asset.options,
            )
        rows = pq.read_table(Path(scratch) / "ids.parquet").to_pylist()
    return [(row["sample_id"], row["kind"]) for row in rows]
