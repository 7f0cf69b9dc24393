"""What a deletion request names, what it touches, and its entry on the list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsqa_pipeline.audit.forgotten import source_id
from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.forgotten import Kind, read_tombstones
from rsqa_pipeline.lineage.forward import forward
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import folder_version

_COUNTED = ("samples", "pairs", "items", "scores", "subsets")


@dataclass(frozen=True)
class Named:
    """An id of the list."""

    kind: Kind
    id: str


@dataclass(frozen=True)
class Request:
    """A deletion request on one profile."""

    named: list[Named]
    """The images and samples that it is about."""
    ids: list[Named]
    """These, and every id by which outputs name what they touched: what goes on the list."""
    touched: dict[str, Any]
    """As `lineage.forward.forward` returns it."""
    versions: dict[str, str]
    """Data version of every asset that it reached and that is on disk."""

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """What was touched, asset, and number of rows."""
        rows = [(what, name, len(ids)) for what in _COUNTED for name, ids in self.touched[what].items()]
        return rows + [("models", name, count) for name, count in self.touched["models"].items()]


def read_request(profile: Profile, targets: Sequence[str]) -> Request:
    """Looks up the targets in the profile's outputs; writes nothing.

    Args:
        targets: each the path or ``image_id`` of an image, or a ``sample_id``.

    Raises:
        UsageError: a target is none of these.
        DataError: the list cannot be read.
    """
    assets = assets_of(profile)
    named = _resolved(profile, list(assets.values()), targets)
    wanted = {part.id for part in named if part.kind == "sample"}
    originals = [Named("sample", identity) for identity in _source_ids(profile, assets, wanted)]
    touched = _touched(profile, [part.id for part in [*named, *originals]])
    kinds: dict[str, Kind] = {"samples": "sample", "pairs": "pair", "items": "item"}
    rows = [Named(kind, key) for what, kind in kinds.items() for ids in touched[what].values() for key in ids]
    folders = {name: assets[name].folder(profile) for name in touched["rebuild"]}
    versions = {name: folder_version(folder) for name, folder in folders.items() if folder.is_dir()}
    return Request(named, list(dict.fromkeys([*named, *originals, *rows])), touched, versions)


def _resolved(profile: Profile, assets: Iterable[Asset], targets: Sequence[str]) -> list[Named]:
    found: dict[str, Named] = {tomb.id: Named(tomb.kind, tomb.id) for tomb in read_tombstones()}
    found |= _in_tables(profile, assets, targets)
    named = []
    for target in targets:
        path = Path(target)
        if path.is_file():
            found[target] = Named("image", hashlib.sha256(path.read_bytes()).hexdigest())
        if target not in found or found[target].kind not in ("image", "sample"):
            raise UsageError(
                f"{target!r} is neither an image file nor the id of an image or sample of profile {profile.name}; "
                "`rsqa trace --forward` and the tables samples.parquet name them"
            )
        named.append(found[target])
    return list(dict.fromkeys(named))


def _in_tables(profile: Profile, assets: Iterable[Asset], targets: Sequence[str]) -> dict[str, Named]:
    """Those of the targets that a table of samples, benchmark items or pairs has."""
    found: dict[str, Named] = {}
    wanted = pa.array(targets, pa.string())
    keys: dict[str, Kind] = {"sample_id": "sample", "image_id": "image"}
    for folder in (asset.folder(profile) for asset in assets):
        for path in (folder / f"{table}.parquet" for table in ("samples", "items", "pairs")):
            columns = [key for key in keys if path.is_file() and key in pq.read_schema(path).names]
            table = pq.read_table(path, columns=columns) if columns else pa.table({})
            for key in columns:
                held = pc.unique(table[key].filter(pc.is_in(table[key], value_set=wanted)))
                found |= {identity: Named(keys[key], identity) for identity in held.to_pylist()}
    return found


def _source_ids(profile: Profile, assets: dict[str, Asset], wanted: set[str]) -> list[str]:
    """Ids that samples had before they were corrupted on purpose: readers see them so."""
    found = []
    for folder in (assets[name].folder(profile) for name in TABLES if name in assets):
        if not wanted or not (folder / "truth.parquet").is_file():
            continue
        filters = [("sample_id", "in", sorted(wanted))]
        columns = ["sample_id", "original_text"]
        truth = pq.read_table(folder / "truth.parquet", columns=columns, filters=filters).to_pylist()
        originals = {row["sample_id"]: row["original_text"] for row in truth if row["original_text"] is not None}
        columns = ["sample_id", "image_id", "messages"]
        rows = pq.read_table(folder / "samples.parquet", columns=columns, filters=filters).to_pylist()
        found += [source_id(row, originals[row["sample_id"]]) for row in rows if row["sample_id"] in originals]
    return found


def _touched(profile: Profile, ids: Sequence[str]) -> dict[str, Any]:
    try:
        return forward(profile, *ids)
    except UsageError:  # no output holds it: an image that was never read, or that an earlier request removed
        return {**{what: {} for what in (*_COUNTED, "models", "rebuild")}, "reports": []}
