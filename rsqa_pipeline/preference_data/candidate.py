"""Candidate texts for an image, and the tables of judgements and generations."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from rsqa_pipeline.records import MESSAGES, Message, read_table, sha256
from rsqa_pipeline.source_pairs.split import unit_hash

JUDGEMENT = pa.schema(
    [
        ("image_id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("relevance", pa.float32()),  # the five marks, each 1..5 (paper, quality dimensions)
        ("specificity", pa.float32()),
        ("completeness", pa.float32()),
        ("clarity", pa.float32()),
        ("richness", pa.float32()),
        ("true_mark", pa.float32()),  # mean mark without the judge's noise, missing if the truth is not known
        ("judge_version", pa.string()),  # of a model judge: weights hash, or the version that its server reports
    ]
)
"""Example: ``{"image_id": "41..", "text": "several tanks", "source": "vague", "relevance": 4.1, "specificity": 1.2,
"completeness": 2.0, "clarity": 4.8, "richness": 2.2, "true_mark": 2.9, "judge_version": None}``"""

GENERATION = pa.schema(
    [
        ("image_id", pa.string()),
        ("purpose", pa.string()),  # caption | answer | rephrase
        ("source", pa.string()),  # the writer's name, as in pairs and judgements
        ("text", pa.string()),
        ("model", pa.string()),  # folder, hub id, or model name on the server
        ("version", pa.string()),  # weights hash, or the version that the server reports
        ("prompt", MESSAGES),
        ("temperature", pa.float32()),
        ("top_p", pa.float32()),
        ("max_new_tokens", pa.int32()),
        ("draw", pa.int64()),  # index of the text among those to the same prompt
    ]
)
"""Texts written by models, with prompt and sampling parameters; joined to the other tables by (image_id, source, text).
Example: ``{"image_id": "41..", "purpose": "caption", "source": "qwen_7b", "text": "two white tanks", "model":
"Qwen/Qwen2-VL-7B-Instruct", "version": "5be1..", "prompt": [{"role": "user", "content": "Describe this satellite image
in detail."}], "temperature": 1.0, "top_p": 0.95, "max_new_tokens": 64, "draw": 0}``"""

MAX_TEXT_CHARACTERS = 10_000
"""Characters. A longer text (about four pages) means that generation did not stop."""

NO_FAULT = "none"
"""`Candidate.fault` of a text without an injected corruption."""


@dataclass(frozen=True)
class Subject:
    """What candidate texts are about: an image and the turns before the answer (none for a caption)."""

    image_id: str
    image: str
    context: tuple[Message, ...] = ()
    task: str = "caption"

    @property
    def key(self) -> str:
        """Id of the subject: hash of image and question."""
        return sha256(self.image_id, *(part for turn in self.context for part in (turn["role"], turn["content"])))


@dataclass(frozen=True)
class Candidate:
    """A text about a subject, and its author."""

    subject: Subject
    text: str
    source: str
    fault: str | None = None
    """Kind of corruption injected into the text, ``NO_FAULT`` for a text as people wrote it, None if unknown."""


def unusable_text(text: str) -> tuple[str, str] | None:
    """Reason (``empty_text``, ``text_too_long`` or ``bad_text``) and detail if a text cannot compete, else None."""
    if not text.strip():
        return "empty_text", "the text has no visible character"
    if len(text) > MAX_TEXT_CHARACTERS:
        return "text_too_long", f"{len(text)} characters, at most {MAX_TEXT_CHARACTERS}; begins {text[:80]!r}"
    return broken_text(text)


def broken_text(text: str) -> tuple[str, str] | None:
    """Reason ``bad_text`` and detail if a text holds half of a surrogate pair or a control character, else None."""
    broken = next((c for c in text if unicodedata.category(c) in ("Cs", "Cc") and c not in "\t\n\r"), None)
    return None if broken is None else ("bad_text", f"the text holds the character {broken!r}")


def pair_split(key: str, share: float, seed: int) -> Literal["train", "heldout"]:
    """Split of a pair by its image's id (by its text if it has no image), the same for every family.

    No image is in both splits.
    """
    return "heldout" if unit_hash(str(seed), "heldout", key) < share else "train"


def preference_rows(folder: Path) -> list[dict[str, Any]]:
    """Samples of split "preference" of a source table, with their ``scene``, ``corruption``, ``original_text``."""
    truths = {row["sample_id"]: row for row in read_table(folder / "truth.parquet")}
    nothing: Mapping[str, Any] = {}
    return [
        {
            **row,
            **{
                name: truths.get(row["sample_id"], nothing).get(name)
                for name in ("scene", "corruption", "original_text")
            },
        }
        for row in read_table(folder / "samples.parquet")
        if row["split"] == "preference"
    ]


def scenes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Seed of the scene that each image shows, by image_id; images without a known scene are left out."""
    return {row["image_id"]: int(row["scene"]) for row in rows if row["scene"] is not None}
