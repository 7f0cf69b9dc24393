"""Exports rows of any source as LLaVA JSON or as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.images.references import split_raster
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.json_row import facts_of, values_of, write_turns
from rsqa_pipeline.source_pairs.readers.read_source import images_folder


def write_llava(source: SourceFile, wanted: Wanted, out: Path) -> None:
    """Writes a list of conversations, one per line; a caption answers ``<image>`` alone, as in LLaVA's pre-training."""
    folder = images_folder(source)
    with out.open("w", encoding="ascii") as file:
        file.write("[")
        for number, row in enumerate(wanted.rows(source)):
            record = {
                "id": row.key,
                "image": image_name(row.image, folder),
                "conversations": write_turns(row.messages),
                **facts_of(row),
            }
            file.write(f"{',' if number else ''}\n{json.dumps(record)}")
        file.write("\n]\n")


def write_jsonl(source: SourceFile, wanted: Wanted, out: Path) -> None:
    """Writes one object per line, with ``messages``."""
    folder = images_folder(source)
    with out.open("w", encoding="ascii") as file:
        for row in wanted.rows(source):
            file.write(f"{json.dumps(values_of(row, image_name(row.image, folder)))}\n")


def image_name(reference: str, folder: Path) -> str:
    """The reference relative to the image folder, without its raster choice, which the source's settings contain."""
    plain, _ = split_raster(reference)
    return plain.removeprefix(os.path.join(folder, ""))  # noqa: PTH118 - the reference may not be a path
