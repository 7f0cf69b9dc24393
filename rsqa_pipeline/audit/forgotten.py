"""Where forgotten images and samples still are: in outputs, and in what is kept between runs."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.forgotten import FAULT, FORGOTTEN, Forgotten, read_forgotten
from rsqa_pipeline.lineage.forward import sample_ids_of
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, sample_id
from rsqa_pipeline.stages import assets_of

RECEIPTS = Path("receipts")
"""Folder of the receipts of `rsqa forget`."""
_ID_COLUMNS = (
    "sample_id", "image_id", "pair_id", "item_id", "key", "image_hash", "component", "other_image_id",
)  # fmt: skip
_HASH = re.compile(rb"\b[0-9a-f]{64}\b")
_TEXT_FILES = (".json", ".jsonl", ".html", ".md", ".csv", ".txt")
_IMAGE_FILES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def check_forgotten(profile: Profile) -> list[Finding]:
    """Every file of the profile's outputs, rejected outputs and kept scores that holds something on the list.

    Rows are recognized by their ids and by image and text, files by the hash of their bytes, pages by the hashes that
    they name. A picture that was drawn or scaled from an image is not recognized: its asset is stale instead.

    Raises:
        DataError: the list cannot be read.
    """
    forgotten = read_forgotten()
    found = _lost_tombstones(forgotten)
    if not forgotten.ids:
        return found
    places = {name: asset.folder(profile) for name, asset in assets_of(profile).items()}
    places |= {folder.name: folder for folder in sorted(profile.data.glob("*/.*.rejected"))}
    places |= {f"kept scores of {folder.name}": folder for folder in sorted((profile.state / "scores").glob("*"))}
    for name, folder in places.items():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            try:
                ids = sorted(set(_held(path, forgotten)))
            except (pa.ArrowException, tarfile.TarError, OSError) as error:
                found.append(Finding("forgotten_item", name, f"{path} cannot be searched: {type(error).__name__}"))
                continue
            if ids:
                more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
                found.append(Finding("forgotten_item", name, f"{path} holds {ids[0]}{more}"))
    return found


def _lost_tombstones(forgotten: Forgotten) -> list[Finding]:
    """Receipts of which an id is no longer on the list."""
    found = []
    for path in sorted(RECEIPTS.glob("forget-*.json")):
        try:
            ids = [part["id"] for part in json.loads(path.read_text(encoding="utf-8"))["tombstones"]["of_request"]]
        except (ValueError, KeyError, TypeError):
            found.append(Finding("lost_tombstone", str(path), "is not what `rsqa forget` wrote"))
            continue
        if lost := [identity for identity in ids if identity not in forgotten]:
            found.append(Finding("lost_tombstone", str(path), f"{len(lost)} of its ids are not in {FORGOTTEN}"))
    return found


def _held(path: Path, forgotten: Forgotten) -> Iterator[str]:
    """Ids on the list that the file holds."""
    if path.suffix == ".parquet":
        yield from _held_by_rows(path, forgotten)
    elif path.suffix == ".tar":
        yield from _held_by_tar(path, forgotten)
    elif path.suffix in _TEXT_FILES:
        yield from forgotten.ids.intersection(match.decode() for match in _HASH.findall(path.read_bytes()))
    elif path.suffix in _IMAGE_FILES:
        with path.open("rb") as file:
            yield from forgotten.ids.intersection([hashlib.file_digest(file, "sha256").hexdigest()])
    elif path.suffix == ".f32":  # vectors, in files named after their image (`models.embedding_cache`)
        yield from forgotten.ids.intersection([path.parent.name + path.stem])


def _held_by_tar(path: Path, forgotten: Forgotten) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                yield from forgotten.ids.intersection([hashlib.sha256(content.read()).hexdigest()])


def _held_by_rows(path: Path, forgotten: Forgotten) -> Iterator[str]:
    file = pq.ParquetFile(path)
    names = set(file.schema_arrow.names)
    ids = [name for name in _ID_COLUMNS if name in names]
    reason = ["reason"] if "reason" in names else []  # a row that was refused for being on the list is not a remainder
    wanted = pa.array(sorted(forgotten.ids), pa.string())
    for batch in file.iter_batches(columns=[*ids, *reason]) if ids else ():
        if reason:
            batch = batch.filter(pc.fill_null(pc.not_equal(batch["reason"], FAULT[0]), True))
        for name in ids:
            yield from batch[name].filter(pc.is_in(batch[name], value_set=wanted)).to_pylist()
    if {"image_id", "text"} <= names:
        for row in _rows(file, "image_id", "text"):
            yield from _on_list(
                forgotten, sample_id(row["image_id"] or "", [Message(role="assistant", content=row["text"] or "")])
            )
    if {"context", "chosen", "rejected"} <= names:
        for row in _rows(file, "image_id", "context", "chosen", "rejected"):
            yield from _on_list(forgotten, *sample_ids_of(row))
    if "original_text" in names:
        yield from _held_originals(file, path.parent / "samples.parquet", forgotten)


def _held_originals(truth: pq.ParquetFile, samples: Path, forgotten: Forgotten) -> Iterator[str]:
    """Samples as they were before they were corrupted on purpose."""
    originals = {
        row["sample_id"]: row["original_text"]
        for row in _rows(truth, "sample_id", "original_text")
        if row["original_text"] is not None
    }
    if not originals or not samples.is_file():
        return
    for row in _rows(pq.ParquetFile(samples), "sample_id", "image_id", "messages"):
        if row["sample_id"] in originals:
            yield from _on_list(forgotten, source_id(row, originals[row["sample_id"]]))


def source_id(sample: Mapping[str, Any], original_text: str) -> str:
    """``sample_id`` of a corrupted sample as its source has it."""
    *before, last = sample["messages"]
    return sample_id(sample["image_id"], [*before, Message(role=last["role"], content=original_text)])


def _on_list(forgotten: Forgotten, *ids: str) -> Iterator[str]:
    yield from (identity for identity in ids if identity in forgotten)


def _rows(file: pq.ParquetFile, *columns: str) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(10_000, columns=list(columns)):
        yield from batch.to_pylist()
