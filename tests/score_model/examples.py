"""Preference pairs whose chosen texts a model can learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsqa_pipeline.records import PREFERENCE_PAIR, pair_id, write_table


def pair(image: str | None, chosen: str, rejected: str, split: str = "train", **more: Any) -> dict[str, Any]:
    """A row of PREFERENCE_PAIR."""
    context = more.get("context", [])
    return {
        "pair_id": pair_id(image, context, chosen, rejected),
        "image_id": image,
        "image": image,
        "family": "caption" if image else "text",
        "context": context,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_source": "expert",
        "rejected_source": "swapper",
        "chosen_mark": 4.5,
        "rejected_mark": 2.0,
        "true_margin": 2.5,
        "judge": "test",
        "split": split,
        **more,
    }


def colour_pairs(images: dict[str, str], split: str) -> list[dict[str, Any]]:
    """The image's own colour against each other colour."""
    return [
        pair(image, f"a {colour} field seen from above", f"a {other} field seen from above", split)
        for colour, image in images.items()
        for other in images
        if other != colour
    ]


def write_pairs(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Output folder of a preference asset."""
    write_table(folder / "pairs.parquet", PREFERENCE_PAIR, rows)
    return folder
