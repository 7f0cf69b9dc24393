"""The report's gallery: the samples that the score model ranks highest and lowest, to be judged by eye."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.report.blocks import UNKNOWN, Card, Fold, Gallery, Section, data_uri
from rsqa_pipeline.report.reading import samples

SHOWN_PIXELS = 256
"""Longest side of a picture in the page; larger ones are made smaller."""


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, size: int) -> Section:
    """``size`` best and ``size`` worst captions, and half as many instruction samples of each."""
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
    return Section(
        "gallery",
        "Best and worst by the score model",
        [*captions, Fold("Question-answer samples", answers)],
        lead="The highest and the lowest scores of the whole corpus, one sample an image, not hand-picked. The true "
        "quality is a mark from 1 to 5 that the score model never saw.",
    )


def cards(inputs: Mapping[str, Path], frame: pd.DataFrame, kind: str, tone: str, size: int) -> list[Card]:
    """The ``size`` samples of ``kind`` with the highest ("best") or lowest ("worst") scores, the most extreme first."""
    rows = frame[(frame["kind"] == kind) & frame["score_model"].notna()]
    # Several captions share an image, so more than are shown must be looked at to have one sample an image.
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
    return Card(_picture(row["image"]), turns, facts, tone)


def _picture(reference: str) -> str | None:
    """The image as a data URI; small ones exactly (PNG), larger ones reduced (JPEG). None where it cannot be read."""
    try:
        image = open_image(reference)
    except ImageFault:
        return None
    content = io.BytesIO()
    if max(image.size) <= SHOWN_PIXELS // 2:
        image.save(content, format="PNG")
        return data_uri(content.getvalue(), "image/png")
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    image.save(content, format="JPEG", quality=82)
    return data_uri(content.getvalue(), "image/jpeg")
