"""GeoTIFF scenes of 8 or 16 bit and any number of bands as RGB, and their georeference.

Pillow opens TIFFs of 8 bit and up to 4 bands. Other TIFFs and the geographic tags need rasterio, the extra ``geo``. It
is imported when such an image is read; if it is not installed, ImportError is raised.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from PIL import TiffImagePlugin

DEFAULT_STRETCH = (2.0, 98.0)
INSTALL = "pip install 'rsqa-pipeline[geo]'"
_FIRST_BYTES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GEO_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transformation, geo keys
_WIDTH, _HEIGHT, _BITS, _BANDS = 256, 257, 258, 277
_PILLOW_BANDS = 4


class Georeference(TypedDict):
    """Location of an image: ``{"crs": "EPSG:32633", "left": 500000.0, "bottom": 5190000.0, "right": 509990.0,
    "top": 5200000.0}``, in units of the coordinate reference system; ``crs`` is None if the file has none."""

    crs: str | None
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class RasterChoice:
    """The bands and the stretch with which a raster is shown.

    Example: ``RasterChoice((4, 3, 2), (2.0, 98.0))``, true colour of Sentinel-2
    """

    bands: tuple[int, ...] | None = None
    """Numbers, from 1, of the bands shown as red, green and blue, or of one band shown in grey. None: the bands that
    the file names red, green and blue, otherwise the first three, or the first one."""
    stretch: tuple[float, float] | None = None
    """Percentiles of each band's valid pixels that become 0 and 255. None: 8-bit values stay, others use 2..98."""


DEFAULT_RASTER = RasterChoice()


@dataclass(frozen=True)
class TiffHeader:
    """Fields of the first directory of a TIFF."""

    width: int
    height: int
    bands: int
    bits: int
    """Bits of the widest band."""
    has_geo: bool

    def needs_rasterio(self, choice: RasterChoice) -> bool:
        """Whether Pillow cannot show it, or not as chosen. Pillow reads 16-bit grey without geographic tags."""
        chosen = choice != DEFAULT_RASTER
        return chosen or self.bands > _PILLOW_BANDS or (self.bits > 8 and (self.has_geo or self.bands > 1))


def tiff_header(data: bytes) -> TiffHeader | None:
    """The header of TIFF bytes, read without decoding; None if they are not a TIFF or the header is unreadable."""
    if not data.startswith(_FIRST_BYTES):
        return None
    try:
        big = data[2] == 43 or data[3] == 43
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bits = directory.get(_BITS, (1,))
        return TiffHeader(
            width=int(directory[_WIDTH]),
            height=int(directory[_HEIGHT]),
            bands=int(directory.get(_BANDS, 1)),
            bits=max(bits if isinstance(bits, tuple) else (bits,)),
            has_geo=any(tag in directory for tag in _GEO_TAGS),
        )
    except Exception:  # malformed bytes raise nearly any type; decoding reports the fault
        return None


def read_rgb(data: bytes, choice: RasterChoice) -> np.ndarray:
    """The chosen bands, (height, width, 3) uint8; pixels without data are black, and so is a band with a single value.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: there is no such band.
        rasterio.errors.RasterioError: the image cannot be decoded.
    """
    with _open(data) as raster:
        bands = choice.bands or _default_bands(raster)
        if max(bands) > raster.count:
            raise ValueError(f"has {raster.count} bands, none with the number {max(bands)}")
        shown = [_to_uint8(raster.read(band, masked=True), choice.stretch) for band in bands]
    return np.stack(shown * 3 if len(shown) == 1 else shown, axis=-1)


def georeference(data: bytes) -> Georeference | None:
    """Reference system and bounds; None for an image without geographic tags, or if rasterio is not installed."""
    header = tiff_header(data)
    if header is None or not header.has_geo:
        return None
    try:
        import rasterio.errors
    except ImportError:
        return None
    try:
        with _open(data) as raster:
            if raster.crs is None and raster.transform.is_identity:
                return None
            left, bottom, right, top = map(float, raster.bounds)
            crs = raster.crs.to_string() if raster.crs else None
            return {"crs": crs, "left": left, "bottom": bottom, "right": right, "top": top}
    except rasterio.errors.RasterioError:
        return None


@contextmanager
def _open(data: bytes) -> Iterator[Any]:
    """Opens the dataset. The driver is fixed, because GDAL knows formats that read other files."""
    import rasterio

    with rasterio.MemoryFile(data) as file, file.open(driver="GTiff") as raster:
        yield raster


def _default_bands(raster: Any) -> tuple[int, ...]:
    names = [interpretation.name for interpretation in raster.colorinterp]
    colours = ("red", "green", "blue")
    if all(colour in names for colour in colours):
        return tuple(names.index(colour) + 1 for colour in colours)
    return (1, 2, 3) if raster.count >= 3 else (1,)


def _to_uint8(band: np.ma.MaskedArray, stretch: tuple[float, float] | None) -> np.ndarray:
    """One band, (height, width), as uint8."""
    if band.dtype == np.uint8 and stretch is None:
        return band.filled(0)
    values = np.ma.masked_invalid(band.astype(np.float32))
    valid = values.compressed()
    if not valid.size:
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(valid, stretch or DEFAULT_STRETCH)
    scaled = (values - low) * (255.0 / max(high - low, np.finfo(np.float32).tiny))
    return np.clip(np.rint(scaled), 0, 255).filled(0).astype(np.uint8)
