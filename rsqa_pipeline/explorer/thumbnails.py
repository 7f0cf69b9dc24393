"""Thumbnails packed into sheets, so that a page of 10,000 images has some hundred files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from rsqa_pipeline.images.decode import ImageFault, open_image

CELL_PIXELS = 144
"""Side of a thumbnail's cell; a multiple of 16, so that JPEG blocks never span two cells."""
PER_SIDE = 8
PER_SHEET = PER_SIDE * PER_SIDE
_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """Place of an image's thumbnail, or why there is none."""

    index: int = -1
    """Sheet ``index // PER_SHEET``, cell ``index % PER_SHEET`` in reading order; -1 if there is none."""
    fault: str | None = None
    """Reason and detail of the `ImageFault`."""


def write_thumbnails(references: Iterable[str], folder: Path) -> dict[str, Thumbnail]:
    """Writes ``0.jpg``, ``1.jpg``, ... of PER_SHEET thumbnails each; every distinct image is decoded once.

    One image and one sheet are in memory at a time. An image that cannot be opened takes no cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Thumbnail] = {}
    sheet = _empty_sheet()
    count = 0
    for reference in tqdm(list(dict.fromkeys(references)), desc="thumbnails", unit="image", mininterval=1):
        try:
            image = open_image(reference)
        except ImageFault as fault:
            found[reference] = Thumbnail(fault=f"{fault.reason}: {fault.detail}")
            continue
        sheet.paste(_fitted(image), _corner(count % PER_SHEET))
        found[reference] = Thumbnail(index=count)
        count += 1
        if count % PER_SHEET == 0:
            _save(sheet, folder, count)
            sheet = _empty_sheet()
    if count % PER_SHEET:
        _save(sheet, folder, count)
    return found


def _fitted(image: Image.Image) -> Image.Image:
    """The image in the middle of a black cell, with its own shape; a small one is enlarged."""
    scale = CELL_PIXELS / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    cell = Image.new("RGB", (CELL_PIXELS, CELL_PIXELS))
    resized = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    cell.paste(resized, ((CELL_PIXELS - width) // 2, (CELL_PIXELS - height) // 2))
    return cell


def _corner(cell: int) -> tuple[int, int]:
    return CELL_PIXELS * (cell % PER_SIDE), CELL_PIXELS * (cell // PER_SIDE)


def _empty_sheet() -> Image.Image:
    return Image.new("RGB", (CELL_PIXELS * PER_SIDE, CELL_PIXELS * PER_SIDE))


def _save(sheet: Image.Image, folder: Path, count: int) -> None:
    """Saves the sheet that holds thumbnail ``count - 1``."""
    sheet.save(folder / f"{(count - 1) // PER_SHEET}.jpg", quality=_QUALITY)
