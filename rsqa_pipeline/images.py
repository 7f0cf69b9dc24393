"""Opens one image safely by reference, hashes it, and packs new images into a tar that is read by offset.

A reference is a file path, or ``archive.tar#offset+size`` for the bytes of a member of an uncompressed tar.
Whatever is wrong with an image ends in `ImageFault`, whose ``reason`` is one of `REASONS`, so that a caller
can quarantine and count.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rsqa_pipeline.errors import RsqaError

MAX_PIXELS = 100_000_000

REASONS = {
    "missing_image": "no such file or tar, or it cannot be read",
    "zero_bytes": "the file is empty",
    "not_an_image": "the bytes are of no known image format",
    "undecodable": "an image by its first bytes, but it cannot be decoded",
    "truncated": "the image, or the tar that holds it, ends too early",
    "too_large": "more pixels than allowed, told from the header without decoding",
    "refused_shape": "the model's image processor takes no such shape, one side over 200 times the other, say",
}

# Only plain raster formats: Pillow also knows formats that start other programs (EPS) or read other files.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8", b"\0\0\0\x0cjP")
_TAR_MEMBER = re.compile(r"(.+)#(\d+)\+(\d+)")
_TAR_BLOCK = 512


class ImageFault(RsqaError):
    """An image that cannot be used: ``reason`` to count by (a key of `REASONS`), ``detail`` to look at."""

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
        ImageFault: ``missing_image``, ``zero_bytes``, or ``truncated`` where the tar ends too early.
    """
    member = _TAR_MEMBER.fullmatch(reference)
    try:
        if member is None:
            data = Path(reference).read_bytes()
        else:
            with Path(member[1]).open("rb") as archive:
                archive.seek(int(member[2]))
                data = archive.read(int(member[3]))
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise ImageFault("missing_image", f"{reference} cannot be read: {error}") from error
    if member is not None and len(data) < int(member[3]):
        raise ImageFault("truncated", f"{reference}: the archive ends after {len(data)} of {member[3]} bytes")
    if not data:
        raise ImageFault("zero_bytes", f"{reference} has no bytes")
    return data


def open_image(reference: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in RGB, 8 bit, upright; see `decode_image`."""
    return decode_image(read_bytes(reference), reference, max_pixels)


def decode_image(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes stored bytes to RGB, 8 bit, rotated as EXIF says.

    Grey and two-tone images are repeated over the bands; palettes and CMYK are converted; 16-bit values
    are divided by 257 (their full range becomes 0..255); 32-bit and float values are stretched linearly
    from their own least to their greatest finite value; transparent pixels are laid over black, the way
    overhead imagery marks "no data".

    Args:
        data: the bytes of one image file.
        name: put into faults.
        max_pixels: width times height allowed; decided from the header, before any pixel is decoded.

    Raises:
        ImageFault: ``not_an_image``, ``undecodable``, ``truncated`` or ``too_large``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                detail = f"{name} is {width} x {height} = {width * height} px, allowed are {max_pixels}"
                raise ImageFault("too_large", detail)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except ImageFault:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFault("too_large", f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        known = data.startswith(_FIRST_BYTES)
        detail = f"{name}: {len(data)} bytes, no image header could be read; begins with {data[:16]!r}"
        raise ImageFault("undecodable" if known else "not_an_image", detail) from error
    except Exception as error:  # Pillow raises nearly any type on hostile bytes; each means: unusable
        ended = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise ImageFault("truncated" if ended else "undecodable", f"{name}: {error!r}") from error


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
    """Linear from the least..greatest finite value to 0..255, uint8; what is not finite becomes 0."""
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel has a finite value")
    low, high = values[finite].min(), values[finite].max()
    scaled = (np.where(finite, values, low) - low) * (255.0 / max(high - low, np.finfo(np.float64).tiny))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


class TarImages:
    """Streams images as PNG into an uncompressed tar and hands out references to them.

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
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # sensor noise hardly shrinks
        return self.add_bytes(name, buffer.getvalue())

    def add_bytes(self, name: str, data: bytes) -> tuple[str, str]:
        """Appends an image file as it is; returns its ``image_id`` and its reference."""
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
