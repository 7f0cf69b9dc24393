"""Rasters of any type and number of bands as RGB, and the georeference of a GeoTIFF.

Pillow opens images of 8 bit and up to 4 bands. Others and the geographic tags need rasterio, the extra ``geo``. It is
imported when such an image is read; if it is not installed, ImportError is raised.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from rsqa_pipeline.images.headers import RasterHeader, raster_header
from rsqa_pipeline.images.stretch import Limits, as_float, limits_of, to_uint8

INSTALL = "pip install 'rsqa-pipeline[geo]'"
_SAMPLED_PIXELS = 8_000_000
"""Pixels from which the percentiles are computed; larger rasters are sampled evenly."""
_STRIP_PIXELS = 4_000_000
_MAX_BLOCK_BYTES = 256 * 2**20
_CACHE_MIB = 256
"""GDAL's cache of decoded blocks; it must hold the largest block, or each strip decodes it again."""


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
    alpha: bool | None = None
    """Whether the second of two bands, or the fourth of four, is opacity. None: if it is flagged as alpha and has no
    grades, see `_alpha`."""


DEFAULT_RASTER = RasterChoice()


class BlockTooLargeError(ValueError):
    """A raster that can only be decoded as a whole, or in parts that are too large for memory."""


def tiff_header(data: bytes) -> RasterHeader | None:
    """The header of TIFF bytes; None if they are not a TIFF or the header is unreadable."""
    header = raster_header(data)
    return header if header is not None and header.driver == "GTiff" else None


def read_rgb(data: bytes, header: RasterHeader, choice: RasterChoice) -> np.ndarray:
    """The chosen bands, (height, width, 3) uint8. Pixels without data are black: those whose shown bands all hold the
    nodata value, and those that the mask or the alpha band excludes (see `_alpha`).

    The bands are read in strips, so memory is that of the result, one stored block and `_SAMPLED_PIXELS` values per
    band.

    Raises:
        ImportError: rasterio is not installed.
        BlockTooLargeError: the file cannot be read in strips.
        ValueError: there is no such band, or no pixel has a finite value.
        rasterio.errors.RasterioError: the image cannot be decoded.
    """
    with _open(data, header.driver) as raster:
        bands = choice.bands or _default_bands(raster)
        if max(bands) > raster.count:
            raise ValueError(f"has {raster.count} bands, none with the number {max(bands)}")
        _check_blocks(raster)
        alpha = _alpha(raster, choice.alpha, header.premultiplied)
        limits = _limits(raster, bands, alpha, choice.stretch)
        pixels = np.zeros((raster.height, raster.width, 3), np.uint8)
        for strip in _strips(raster):
            rows = slice(strip.row_off, strip.row_off + strip.height)
            _show(raster, bands, alpha, limits, strip, pixels[rows])
    return pixels


def _show(
    raster: Any,
    bands: Sequence[int],
    alpha: _Alpha | None,
    limits: Sequence[Limits | None],
    strip: Any,
    out: np.ndarray,
) -> None:
    """Writes one strip of the image to ``out``, (rows, width, 3) uint8."""
    shown = np.zeros(out.shape[:2], bool)
    for index, (band, limit) in enumerate(zip(bands, limits, strict=True)):
        values = raster.read(band, window=strip)
        shown |= _has_data(raster, band, strip)
        out[..., index] = values if limit is None else to_uint8(values, limit)
    if len(bands) == 1:
        out[..., 1] = out[..., 2] = out[..., 0]
    out[~shown] = 0
    if alpha is not None:
        opacity = np.minimum(as_float(raster.read(alpha.band, window=strip)) / alpha.opaque, 1)
        out[...] = np.rint(out * opacity[..., None])


def _limits(
    raster: Any, bands: Sequence[int], alpha: _Alpha | None, stretch: tuple[float, float] | None
) -> list[Limits | None]:
    """The limits of each band's stretch; None for 8-bit values that stay.

    All bands of a strip are read together, since a file may store them together. GDAL's own decimated read decodes a
    block many times.
    """
    stretched = [band for band in dict.fromkeys(bands) if raster.dtypes[band - 1] != "uint8" or stretch is not None]
    step = math.ceil(math.sqrt(raster.width * raster.height / _SAMPLED_PIXELS))
    strips = list(_strips(raster))
    apart = step if len(strips) > 8 * step else 1  # strips that are left out need not be decoded
    samples: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {band: [] for band in stretched}
    taken = (slice(None, None, step // apart), slice(None, None, step))
    for strip in strips[::apart] if stretched else ():
        opaque = None if alpha is None else (raster.read(alpha.band, window=strip) > 0)[taken]
        for band in stretched:
            values = raster.read(band, window=strip)[taken].copy()
            valid = _has_data(raster, band, strip)[taken].copy()
            samples[band].append((values, valid if opaque is None else valid & opaque))
    found: dict[int, Limits] = {}
    for band in stretched:
        parts = samples.pop(band)
        values, valid = (np.concatenate(part) for part in zip(*parts, strict=True))
        del parts
        found[band] = limits_of(values, valid, stretch)
    return [found.get(band) for band in bands]


def _has_data(raster: Any, band: int, window: Any) -> np.ndarray:
    """Which pixels of a band have data by its nodata value or the file's mask, bool. Alpha is not asked: it may be a
    band of near infrared."""
    flags = {flag.name for flag in raster.mask_flag_enums[band - 1]}
    if "nodata" in flags or ("per_dataset" in flags and "alpha" not in flags):
        return raster.read_masks(band, window=window) > 0
    return np.ones((window.height, window.width), bool)


@dataclass(frozen=True)
class _Alpha:
    """A band of opacity, and the value from which a pixel is opaque."""

    band: int
    opaque: float


def _alpha(raster: Any, chosen: bool | None, premultiplied: bool) -> _Alpha | None:
    """The band of opacity, if there is one.

    GDAL flags the fourth band of any 8-bit file as alpha, also near infrared. So a flagged band is alpha only where it
    has no grades: 0 and one other value. ``chosen`` overrides this.
    """
    names = [interpretation.name for interpretation in raster.colorinterp]
    band = names.index("alpha") + 1 if "alpha" in names else None
    if chosen:
        band = band or (raster.count if raster.count in (2, 4) else None)
        dtype = np.dtype(raster.dtypes[band - 1]) if band else None
        graded = dtype is not None and dtype.kind in "iu" and not premultiplied
        return _Alpha(band, float(np.iinfo(dtype).max) if graded else 1.0) if band else None
    if chosen is False or band is None:
        return None
    found: set[float] = set()
    for strip in _strips(raster):
        found.update(np.unique(raster.read(band, window=strip)).tolist())
        if len(found - {0}) > 1:
            return None
    return _Alpha(band, 1.0)


def _check_blocks(raster: Any) -> None:
    """Raises BlockTooLargeError where the smallest part that can be read takes more than `_MAX_BLOCK_BYTES`."""
    whole = raster.driver != "GTiff"  # decoders of PNG and JPEG 2000 may hold the whole image
    height, width = raster.shape if whole else raster.block_shapes[0]
    item = max(np.dtype(dtype).itemsize for dtype in raster.dtypes)
    item = max(item, 4) if raster.driver == "JP2OpenJPEG" else item
    together = raster.count if whole or raster.profile.get("interleave") == "pixel" else 1
    size = height * width * item * together
    if size > _MAX_BLOCK_BYTES:
        raise BlockTooLargeError(
            f"is stored in blocks of {height} x {width} px and {size >> 20} MiB, allowed are "
            f"{_MAX_BLOCK_BYTES >> 20} MiB; write it as a tiled GeoTIFF (gdal_translate -co TILED=YES)"
        )


def _strips(raster: Any) -> Iterator[Any]:
    """Windows over the full width, whole rows of blocks where these are small."""
    from rasterio.windows import Window

    rows = max(1, _STRIP_PIXELS // raster.width)
    block = raster.block_shapes[0][0]
    rows = rows // block * block or rows
    for top in range(0, raster.height, rows):
        yield Window(0, top, raster.width, min(rows, raster.height - top))


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
def _open(data: bytes, driver: str = "GTiff") -> Iterator[Any]:
    """Opens the dataset. The driver is fixed, because GDAL knows formats that read other files."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB, GDAL_PAM_ENABLED=False, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.MemoryFile(data) as file,
        file.open(driver=driver) as raster,
    ):
        yield raster


def _default_bands(raster: Any) -> tuple[int, ...]:
    names = [interpretation.name for interpretation in raster.colorinterp]
    colours = ("red", "green", "blue")
    if all(colour in names for colour in colours):
        return tuple(names.index(colour) + 1 for colour in colours)
    return (1, 2, 3) if raster.count >= 3 else (1,)
