"""The records that stages exchange, as Parquet tables joined by id.

Every table lives in its asset's folder. A row's ``image`` is a reference (see `rsqa_pipeline.images.references`):
a file path, or a part of a file, ``archive.tar#offset+size``. On disk it is relative to the table's own folder, so a
data folder can be moved or pulled elsewhere; `read_table` returns it as an absolute path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

Split = Literal["preference", "corpus", "validation", "test"]
Family = Literal["caption", "close_ended", "open_ended", "rs_specific", "text"]


class Message(TypedDict):
    """One chat turn: ``{"role": "user", "content": "How many ships are there?"}``."""

    role: str
    content: str


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

IMAGE_TEXT_SAMPLE = pa.schema(
    [
        ("sample_id", pa.string()),  # sha256 of (image_id, canonical messages JSON)
        ("image_id", pa.string()),  # sha256 of the image's bytes
        ("image", pa.string()),  # reference, see the module's docstring
        (
            "messages",
            MESSAGES,
        ),  # a caption is one assistant turn; a question-answer sample is user, assistant
        (
            "task",
            pa.string(),
        ),  # caption | scene_class | presence | count | comparison | rural_urban | open | grounding | choice
        ("source", pa.string()),  # who wrote the text: a captioner, a data set
        ("split", pa.string()),  # preference | corpus | validation | test
        ("scene_class", pa.string()),  # missing if unknown
        ("true_quality", pa.float32()),  # 1..5, missing unless the source knows the truth; never trained on
    ]
)
"""Example: ``{"sample_id": "9f..", "image_id": "41..", "image": "images.tar#512+4311",
"messages": [{"role": "assistant", "content": "two white tanks on the left of a storage site"}], "task": "caption",
"source": "expert", "split": "corpus", "scene_class": "storage_tanks", "true_quality": 4.8}``"""

GEOREFERENCE = pa.field(
    "georeference",
    pa.struct(
        [
            ("crs", pa.string()),  # e.g. EPSG:32633; missing if the file has none
            *((side, pa.float64()) for side in ("left", "bottom", "right", "top")),  # in units of the crs
        ]
    ),
)
"""An additional column of IMAGE_TEXT_SAMPLE, in tables with georeferenced images; missing for other images.
Example: ``{"crs": "EPSG:32633", "left": 500000.0, "bottom": 5190000.0, "right": 509990.0, "top": 5200000.0}``"""

TRUTH = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image_id", pa.string()),
        ("scene", pa.int64()),  # seed of the procedural scene shown; missing for real images
        ("corruption", pa.string()),  # kind of fault added to the text on purpose; missing for an unchanged text
        ("original_text", pa.string()),  # the text before the change; missing if it is unchanged
        ("reference_text", pa.string()),  # a right last turn; missing unless the source can write one (scenes)
    ]
)
"""What a source knows about its samples' truth; for judges, reports and tests. Of all training, only the reference
subset ``clean`` reads it.
Example: ``{"sample_id": "9f..", "image_id": "41..", "scene": None, "corruption": "class_swap",
"original_text": "many planes are parked in an airport .", "reference_text": None}``"""

PREFERENCE_PAIR = pa.schema(
    [
        ("pair_id", pa.string()),  # sha256 of (image_id, context, chosen, rejected)
        ("image_id", pa.string()),  # missing for family "text"
        ("image", pa.string()),  # reference; missing for family "text"
        ("family", pa.string()),  # caption | close_ended | open_ended | rs_specific | text
        ("context", MESSAGES),  # the turns before the answer; a caption's context is empty
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_source", pa.string()),
        ("rejected_source", pa.string()),
        ("chosen_mark", pa.float32()),  # judge's mean mark 1..5; missing if the family needs no judge
        ("rejected_mark", pa.float32()),
        (
            "true_margin",
            pa.float32(),
        ),  # true mark of chosen minus rejected, missing unless the truth is known
        ("judge", pa.string()),  # judge name and version
        ("split", pa.string()),  # train | heldout
    ]
)
"""Example: ``{"pair_id": "c0..", "image_id": "41..", "image": "../image_text_pairs/images.tar#512+4311",
"family": "close_ended", "context": [{"role": "user", "content": "How many ships are there?"}], "chosen": "3",
"rejected": "5", "chosen_source": "reference", "rejected_source": "vlm", "chosen_mark": None, "rejected_mark": None,
"true_margin": 3.2, "judge": "reference", "split": "train"}``"""

SCORED_SAMPLE = pa.schema(
    [
        ("sample_id", pa.string()),
        (
            "score",
            pa.float32(),
        ),  # unbounded for a score model, cosine in [-1, 1] for CLIP; never missing here
        ("model_version", pa.string()),  # hash of the scoring model's weights
    ]
)
"""Example: ``{"sample_id": "9f..", "score": 2.31, "model_version": "5be1c0.."}``"""

SPREAD = pa.field("spread", pa.float32())
"""An additional column of SCORED_SAMPLE, in scores of a score model with bootstrap heads: the standard deviation of
the heads' scores, in the score's unit, at least 0. Example: ``0.44``"""

SUBSET = pa.schema([("sample_id", pa.string()), ("kind", pa.string())])
"""The ids a subset keeps, ``kind`` being "caption" or "instruction"; the rule is in ``rule.json`` next to it.
Example: ``{"sample_id": "9f..", "kind": "caption"}``"""

BENCHMARK_ITEM = pa.schema(
    [
        ("item_id", pa.string()),
        (
            "task",
            pa.string(),
        ),  # classification | retrieval | presence | count | comparison | rural_urban | short_answer |
        # grounding | choice | reward_*
        ("image_id", pa.string()),
        ("image", pa.string()),
        ("question", pa.string()),  # missing for classification, retrieval and captions
        ("answer", pa.string()),  # class name, word, number, letter, right text; missing for retrieval
        ("choices", pa.list_(pa.string())),  # multiple choice: texts of A, B, C, D; reward bench: all four texts
        (
            "boxes",
            pa.list_(pa.list_(pa.float32())),
        ),  # grounding: x0, y0, x1, y1 in pixels of the stored image
        ("captions", pa.list_(pa.string())),  # retrieval: captions that belong to the image
        ("scene_class", pa.string()),
    ]
)
"""Example: ``{"item_id": "count-17", "task": "count", "image_id": "7a..", "image": "images.tar#512+3920",
"question": "How many ships are there?", "answer": "3", "choices": None, "boxes": None, "captions": None,
"scene_class": "harbour"}``"""

QUARANTINE = pa.schema(
    [
        ("asset", pa.string()),  # the asset that cannot use the record
        ("sample_id", pa.string()),  # id of the record, or the reader's key if no id could be computed
        (
            "reason",
            pa.string(),
        ),  # short reason for counting: undecodable, missing_image, empty_text, ...
        ("detail", pa.string()),  # what exactly was found
    ]
)
"""Example: ``{"asset": "image_text_pairs", "sample_id": "airport_1.jpg/0", "reason": "empty_text",
"detail": "caption 0 has no visible character"}``"""

COMPONENT = pa.schema(
    [
        ("image_id", pa.string()),
        ("component", pa.string()),  # image_id of the representative of the near-duplicates; its own without any
        ("kept", pa.bool_()),  # whether samples of this image are kept
        ("other_image_id", pa.string()),  # the most similar near-duplicate found; missing without any
        ("kind", pa.string()),  # perceptual | embedding; missing without any
        ("similarity", pa.float32()),  # with that image: correlation or cosine in [-1, 1]; missing without any
    ]
)
"""Near-duplicate images, one row per image.
Example: ``{"image_id": "41..", "component": "07..", "kept": False, "other_image_id": "07..", "kind": "perceptual",
"similarity": 0.97}``"""

CONTAMINATION = pa.schema(
    [
        ("sample_id", pa.string()),  # of a sample removed from training
        ("benchmark", pa.string()),  # benchmark_sets, or the profile's name of an additional file
        ("item_id", pa.string()),  # the benchmark's item, or the reader's key of an additional file's row
        ("kind", pa.string()),  # same_image | near_image | shared_text
        ("similarity", pa.float32()),  # of the images, or the share of the sample's runs of 13 words; in (0, 1]
    ]
)
"""Samples that share an image or text with benchmark items, one row per sample and item.
Example: ``{"sample_id": "9f..", "benchmark": "benchmark_sets", "item_id": "retrieval-0c1d..", "kind": "near_image",
"similarity": 0.98}``"""

Metrics = dict[str, float]
"""What a stage function returns: flat, deterministic numbers (no timings). A stage that reads records returns
``input_rows``, ``kept_rows`` and ``quarantined_rows`` among them, with kept + quarantined = input."""


def sha256(*parts: str | bytes) -> str:
    """Hex sha256 over the parts, each length-prefixed so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def canonical_messages(messages: Sequence[Message]) -> str:
    """The canonical JSON text of these messages for hashes."""
    turns = [{"content": m["content"], "role": m["role"]} for m in messages]
    return json.dumps(turns, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sample_id(image_id: str, messages: Sequence[Message]) -> str:
    """Identity of an image-text sample: sha256 of (image_id, canonical messages JSON)."""
    return sha256(image_id, canonical_messages(messages))


def pair_id(image_id: str | None, context: Sequence[Message], chosen: str, rejected: str) -> str:
    """Identity of a preference pair."""
    return sha256(image_id or "", canonical_messages(context), chosen, rejected)


def write_table(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> int:
    """Writes rows under ``schema`` to ``path``; image references become relative to the table's folder.

    Returns the number of rows. Raises ``pa.ArrowInvalid`` if a value does not fit its column.
    """
    records = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [dict(row) for row in rows]
    for record in records:
        for field in schema.names:
            value = record.get(field)
            if isinstance(value, float) and value != value:  # pandas represents a missing value as NaN
                record[field] = None
        if record.get("image") is not None:
            record["image"] = _relative(record["image"], path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path)
    return len(records)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table written by `write_table`, image references absolute. Missing values are None."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    for row in rows:
        if row.get("image") is not None:
            row["image"] = _absolute(row["image"], path.parent)
    return rows


def stream_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Like `read_table`, one row at a time, so that the table need not fit in memory; only ``columns`` if given."""
    file = pq.ParquetFile(path, pre_buffer=False)  # otherwise everything read stays in memory
    for batch in file.iter_batches(10_000, columns=columns):
        for row in batch.to_pylist():
            if row.get("image") is not None:
                row["image"] = _absolute(row["image"], path.parent)
            yield row


def _relative(reference: str, folder: Path) -> str:
    file, mark, member = reference.partition("#")
    return os.path.relpath(file, folder) + mark + member


def _absolute(reference: str, folder: Path) -> str:
    file, mark, member = reference.partition("#")
    return os.path.normpath(folder.resolve() / file) + mark + member
