"""Image references: a file, a part of a tar or a cell of a Parquet file, with an optional raster choice.

=======================================  ===============================================
``RSICD_images/airport_1.jpg``           a file
``images.tar#512+4311``                  4,311 bytes of an uncompressed tar, from offset 512
``train.parquet#17:image``               row 17 (from 0) of the column ``image``
``scene.tif#bands=4,3,2;stretch=1,99``   a raster choice; parts may be missing; may follow any form
``mosaic.png#alpha=yes``                 a raster choice: a fourth band is opacity (``no``: it is not)
=======================================  ===============================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rsqa_pipeline.images.geotiff import DEFAULT_RASTER, RasterChoice

_RASTER = re.compile(
    r"(?P<rest>.+)#(?:bands=(?P<bands>\d+(?:,\d+)*))?;?"
    r"(?:stretch=(?P<stretch>\d+(?:\.\d+)?,\d+(?:\.\d+)?))?;?"
    r"(?:alpha=(?P<alpha>yes|no))?"
)
_TAR_PART = re.compile(r"(?P<file>.+)#(?P<start>\d+)\+(?P<size>\d+)", re.DOTALL)
_CELL = re.compile(r"(?P<file>.+\.parquet)#(?P<row>\d+):(?P<column>.+)", re.DOTALL)


@dataclass(frozen=True)
class ImageReference:
    """A parsed reference.

    Example: ``ImageReference("images.tar", start=512, size=4311)``
    """

    file: str
    start: int | None = None
    size: int | None = None
    """Bytes of the part of a tar."""
    row: int | None = None
    column: str | None = None
    """The cell of a Parquet file."""
    raster: RasterChoice = DEFAULT_RASTER


def parse_reference(reference: str) -> ImageReference:
    """Parses a reference; if it has none of the other forms, it is a file name."""
    rest, raster = split_raster(reference)
    if part := _TAR_PART.fullmatch(rest):
        return ImageReference(part["file"], start=int(part["start"]), size=int(part["size"]), raster=raster)
    if cell := _CELL.fullmatch(rest):
        return ImageReference(cell["file"], row=int(cell["row"]), column=cell["column"], raster=raster)
    return ImageReference(rest, raster=raster)


def split_raster(reference: str) -> tuple[str, RasterChoice]:
    """The reference without its raster choice, and the choice."""
    found = _RASTER.fullmatch(reference)
    if found is None or not (found["bands"] or found["stretch"] or found["alpha"]):
        return reference, DEFAULT_RASTER
    low_high = [float(value) for value in (found["stretch"] or "").split(",") if value]
    return found["rest"], RasterChoice(
        bands=tuple(int(band) for band in found["bands"].split(",")) if found["bands"] else None,
        stretch=(low_high[0], low_high[1]) if low_high else None,
        alpha={"yes": True, "no": False}.get(found["alpha"]),
    )


def with_raster(reference: str, choice: RasterChoice) -> str:
    """The reference with a raster choice; unchanged if nothing is chosen."""
    bands = f"bands={','.join(map(str, choice.bands))}" if choice.bands else ""
    stretch = f"stretch={choice.stretch[0]:g},{choice.stretch[1]:g}" if choice.stretch else ""
    alpha = "" if choice.alpha is None else f"alpha={'yes' if choice.alpha else 'no'}"
    suffix = ";".join(part for part in (bands, stretch, alpha) if part)
    return f"{reference}#{suffix}" if suffix else reference
