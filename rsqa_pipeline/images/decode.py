"""Opens one image safely by reference, hashes it, and packs new images into a tar that is read by offset.

References are those of `rsqa_pipeline.images.references`. Every problem with an image raises `ImageFault`, whose
``reason`` is one of `REASONS`, so that a caller can quarantine and count.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.images.geotiff import DEFAULT_RASTER, INSTALL, RasterChoice, read_rgb, tiff_header
from rsqa_pipeline.images.parquet import read_cell
from rsqa_pipeline.images.references import ImageReference, parse_reference

MAX_PIXELS = 100_000_000

REASONS = {
    "missing_image": "no such file or tar, or it cannot be read",
    "zero_bytes": "the file is empty",
    "not_an_image": "the bytes are of no known image format",
    "undecodable": "an image by its first bytes, but it cannot be decoded",
    "truncated": "the image, or the tar that holds it, ends too early",
    "too_large": "more pixels than allowed, told from the header without decoding",
    "needs_geo_extra": "a raster that only rasterio reads, which is not installed",
    "refused_shape": "the model's image processor takes no such shape, one side over 200 times the other, say",
}

# Only plain raster formats: Pillow also knows formats that start other programs (EPS) or read other files.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8", b"\0\0\0\x0cjP")
_TAR_BLOCK = 512


class ImageFault(RsqaError):
    """An image that cannot be used: ``reason`` (a key of `REASONS`) for counting, ``detail`` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def hash_image(data: bytes) -> str:
    """``image_id``: hex sha256 of the image's stored bytes."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(reference: str) -> bytes:
    """The stored bytes of an image.

    Raises:
        ImageFault: ``missing_image``, ``zero_bytes``, or ``truncated`` if the tar ends too early.
    """
    part = parse_reference(reference)
    try:
        data = _read_stored(part)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:  # ValueError: a name with a null character
        raise ImageFault("missing_image", f"{reference} cannot be read: {error}") from error
    if part.size is not None and len(data) < part.size:
        raise ImageFault("truncated", f"{reference}: the archive ends after {len(data)} of {part.size} bytes")
    if not data:
        raise ImageFault("zero_bytes", f"{reference} has no bytes")
    return data


def _read_stored(part: ImageReference) -> bytes:
    if part.column is not None and part.row is not None:
        return read_cell(part.file, part.row, part.column)
    if part.start is None or part.size is None:
        return Path(part.file).read_bytes()
    with Path(part.file).open("rb") as archive:
        archive.seek(part.start)
        return archive.read(part.size)


def content_hash(reference: str) -> str:
    """Hash that is equal if two references show the same image: `hash_image` of the bytes and the raster choice.

    Raises:
        ImageFault: see `read_bytes`.
    """
    raster = parse_reference(reference).raster
    plain = hash_image(read_bytes(reference))
    return plain if raster == DEFAULT_RASTER else hashlib.sha256(f"{plain} {raster}".encode()).hexdigest()


def open_image(reference: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in RGB, 8 bit, upright; see `decode_image`."""
    return decode_image(read_bytes(reference), reference, max_pixels, parse_reference(reference).raster)


def decode_image(
    data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS, raster: RasterChoice = DEFAULT_RASTER
) -> Image.Image:
    """Decodes stored bytes to RGB, 8 bit, rotated as EXIF says.

    Grey and two-tone images are repeated over the bands; palettes and CMYK are converted; 16-bit values
    are divided by 257 (their full range becomes 0..255); 32-bit and float values are stretched linearly
    from their own smallest to their largest finite value; transparent pixels are composited over black,
    the way overhead imagery marks "no data". A GeoTIFF of more than 8 bit, a TIFF of more than 4 bands and a
    TIFF with a raster choice are read by `rsqa_pipeline.images.geotiff`: percentile stretch per band.

    Args:
        data: the bytes of one image file.
        name: name of the image in faults.
        max_pixels: largest width times height; checked in the header, before any pixel is decoded.
        raster: bands and stretch of a TIFF; ignored for other images.

    Raises:
        ImageFault: ``not_an_image``, ``undecodable``, ``truncated``, ``too_large`` or ``needs_geo_extra``.
    """
    header = tiff_header(data)
    try:
        if header is not None and header.needs_rasterio(raster):
            _check_size(header.width, header.height, name, max_pixels)
            return Image.fromarray(read_rgb(data, raster))
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(*image.size, name, max_pixels)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except ImageFault:
        raise
    except ImportError as error:
        found = f"{header.bands} bands of {header.bits} bit" if header else "a raster"
        raise ImageFault("needs_geo_extra", f"{name}: a TIFF with {found} needs rasterio: {INSTALL}") from error
    except Image.DecompressionBombError as error:
        raise ImageFault("too_large", f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        known = data.startswith(_FIRST_BYTES)
        detail = f"{name}: {len(data)} bytes, no image header could be read; begins with {data[:16]!r}"
        raise ImageFault("undecodable" if known else "not_an_image", detail) from error
    except Exception as error:  # Pillow raises nearly any type on malformed bytes; all mean unusable
        ended = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise ImageFault("truncated" if ended else "undecodable", f"{name}: {error!r}") from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        detail = f"{name} is {width} x {height} = {width * height} px, allowed are {max_pixels}"
        raise ImageFault("too_large", detail)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretch(np.asarray(image).astype(np.float64))).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        black = Image.new("RGBA", opaque.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, opaque).convert("RGB")
    return image.convert("RGB")


def _stretch(values: np.ndarray) -> np.ndarray:
    """Maps the smallest..largest finite value linearly to 0..255, uint8; values that are not finite become 0."""
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel has a finite value")
    low, high = values[finite].min(), values[finite].max()
    scaled = (np.where(finite, values, low) - low) * (255.0 / max(high - low, np.finfo(np.float64).tiny))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


class TarImages:
    """Streams images as PNG into an uncompressed tar and returns references to them.

    The same images in the same order give the same bytes. References can be read once the archive is closed.

        with TarImages(out / "images.tar") as archive:
            image_id, reference = archive.add("scene_17.png", pixels)    # pixels: (height, width, 3) uint8
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in __exit__

    def add(self, name: str, pixels: np.ndarray) -> tuple[str, str]:
        """Appends one image, (height, width, 3) uint8; returns its ``image_id`` and its reference."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # sensor noise hardly compresses
        return self.add_bytes(name, buffer.getvalue())

    def add_bytes(self, name: str, data: bytes) -> tuple[str, str]:
        """Appends an image file unchanged; returns its ``image_id`` and its reference."""
        member = tarfile.TarInfo(name)  # time, owner and group stay 0, so that the archive is reproducible
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        blocks = -(-len(data) // _TAR_BLOCK)
        start = self._tar.offset - blocks * _TAR_BLOCK
        return hash_image(data), f"{self._path}#{start}+{len(data)}"

    def close(self) -> None:
        self._tar.close()

    def __enter__(self) -> TarImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
