"""The report's gallery: the samples that the score model ranks highest and lowest, for inspection by eye."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.report.blocks import UNKNOWN, Card, Collapsible, Gallery, ReportSection, data_uri
from rsqa_pipeline.report.reading import samples

MAX_SIDE_PIXELS = 256
"""Maximum side of an image in the page; larger images are scaled down."""


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, size: int) -> ReportSection:
    """``size`` best and ``size`` worst captions, and half as many instruction samples each."""
    captions = [
        Gallery(f"{tone.capitalize()} captions", cards(inputs, frame, "caption", tone, size))
        for tone in ("best", "worst")
    ]
    answers = [
        Gallery(
            f"{tone.capitalize()} question-answer samples",
            cards(inputs, frame, "instruction", tone, (size + 1) // 2),
        )
        for tone in ("best", "worst")
    ]
    return ReportSection(
        "gallery",
        "Best and worst by the score model",
        [*captions, Collapsible("Question-answer samples", answers)],
        lead="The highest and the lowest scores of the whole corpus, one sample per image, not hand-picked. The "
        "score model never saw the true quality, which is from 1 to 5.",
    )


def cards(inputs: Mapping[str, Path], frame: pd.DataFrame, kind: str, tone: str, size: int) -> list[Card]:
    """The ``size`` samples of ``kind`` with the highest ("best") or lowest ("worst") scores, the most extreme first."""
    rows = frame[(frame["kind"] == kind) & frame["score_model"].notna()]
    # Several captions share an image, so more samples are read than shown, to find one sample per image.
    ranked = rows.sort_values(["score_model", "sample_id"], ascending=[tone == "worst", True]).head(20 * size)
    details = samples(inputs, kind, ranked["sample_id"].tolist())
    chosen: dict[str, Card] = {}
    for score, clip_score, sample_id in zip(
        ranked["score_model"], ranked["clip_score"], ranked["sample_id"], strict=True
    ):
        row = details[sample_id]
        if row["image_id"] not in chosen and len(chosen) < size:
            chosen[row["image_id"]] = _card(row, float(score), float(clip_score), tone)
    return list(chosen.values())


def _card(row: dict[str, Any], score: float, clip_score: float, tone: str) -> Card:
    quality = row["true_quality"]
    facts = [
        ("score", f"{score:.2f}".replace("-", "−")),
        ("CLIP score", UNKNOWN if clip_score != clip_score else f"{clip_score:.3f}".replace("-", "−")),
        ("true quality", UNKNOWN if quality is None or quality != quality else f"{quality:.1f} of 5"),
        ("source", str(row["source"]).replace("_", " ")),
    ]
    facts.append(("scene", UNKNOWN if row["scene_class"] is None else str(row["scene_class"]).replace("_", " ")))
    turns = [(str(turn["role"]), str(turn["content"])) for turn in row["messages"]]
    return Card(_image_uri(row["image"]), turns, facts, tone)


def _image_uri(reference: str) -> str | None:
    """The image as a data URI: unchanged (PNG) if small, scaled down (JPEG) if large. None if it cannot be read."""
    try:
        image = open_image(reference)
    except ImageFault:
        return None
    content = io.BytesIO()
    if max(image.size) <= MAX_SIDE_PIXELS // 2:
        image.save(content, format="PNG")
        return data_uri(content.getvalue(), "image/png")
    image.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
    image.save(content, format="JPEG", quality=82)
    return data_uri(content.getvalue(), "image/jpeg")
