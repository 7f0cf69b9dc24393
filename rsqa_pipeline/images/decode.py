"""Opens one image safely by reference, hashes it, and packs new images into a tar that is read by offset.

References are those of `rsqa_pipeline.images.references`. Every problem with an image raises `ImageFault`, whose
``reason`` is one of `REASONS`, so that a caller can quarantine and count.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.images.geotiff import DEFAULT_RASTER, INSTALL, BlockTooLargeError, RasterChoice, read_rgb
from rsqa_pipeline.images.headers import RasterHeader, raster_header
from rsqa_pipeline.images.limits import MAX_BYTES, MAX_PIXELS, MAX_SIDE_RATIO
from rsqa_pipeline.images.parquet import read_cell
from rsqa_pipeline.images.references import ImageReference, parse_reference
from rsqa_pipeline.images.stretch import limits_of, to_uint8

REASONS = {
    "missing_image": "no such file or tar, or it cannot be read",
    "not_a_file": "a pipe, a socket or a device",
    "zero_bytes": "the file is empty",
    "not_an_image": "the bytes are of no known image format",
    "undecodable": "an image by its first bytes, but it cannot be decoded",
    "truncated": "the image, or the tar that holds it, ends too early",
    "too_large": "more bytes or pixels than allowed, or stored in blocks that do not fit memory; found before decoding",
    "needs_geo_extra": "a raster that only rasterio reads, which is not installed",
    "refused_shape": f"one side is more than {MAX_SIDE_RATIO} times the other, or a model's image processor refuses it",
}

# Only plain raster formats: Pillow also knows formats that start other programs (EPS) or read other files.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
_FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF", b"GIF8", b"\0\0\0\x0cjP")
_TAR_BLOCK = 512
_ORIENTATION = 0x0112  # of EXIF


class ImageFault(RsqaError):
    """An image that cannot be used: ``reason`` (a key of `REASONS`) for counting, ``detail`` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def hash_image(data: bytes) -> str:
    """``image_id``: hex sha256 of the image's stored bytes."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(reference: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The stored bytes of an image.

    Args:
        max_bytes: largest file, or part of an archive; checked before it is read, except for a cell of a Parquet file.

    Raises:
        ImageFault: ``missing_image``, ``not_a_file``, ``too_large``, ``zero_bytes``, or ``truncated`` if the tar ends
            too early.
    """
    part = parse_reference(reference)
    try:
        data = _read_stored(part, reference, max_bytes)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:  # ValueError: a name with a null character
        raise ImageFault("missing_image", f"{reference} cannot be read: {error}") from error
    _check_bytes(len(data), reference, max_bytes)
    if part.size is not None and len(data) < part.size:
        raise ImageFault("truncated", f"{reference}: the archive ends after {len(data)} of {part.size} bytes")
    if not data:
        raise ImageFault("zero_bytes", f"{reference} has no bytes")
    return data


def _read_stored(part: ImageReference, reference: str, max_bytes: int) -> bytes:
    status = Path(part.file).stat()  # opening a pipe waits for its writer, so its kind is checked first
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ImageFault("not_a_file", f"{reference} is a pipe, a socket or a device; name an image file")
    if part.column is not None and part.row is not None:
        return read_cell(part.file, part.row, part.column)
    size = status.st_size if part.size is None else part.size
    _check_bytes(size, reference, max_bytes)
    with Path(part.file).open("rb") as file:
        file.seek(part.start or 0)
        return file.read(size)  # memory for all of it is taken at once, so not the limit


def _check_bytes(size: int, reference: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageFault("too_large", f"{reference} has {size} bytes, allowed are {max_bytes}")


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

    The pixels decide, not the geographic tags. 8-bit values stay as they are: grey and two-tone images are repeated
    over the bands, palettes and CMYK are converted. Other values (16 bit, signed, float, the magnitude of complex ones)
    are stretched per band between two percentiles, see `rsqa_pipeline.images.stretch`; where there are more than three
    bands, `rsqa_pipeline.images.geotiff` chooses. Pixels without data are black, the way overhead imagery marks them:
    the nodata value, and transparent pixels. A graded second or fourth band is near infrared, not opacity, unless the
    raster choice says so.

    Args:
        data: the bytes of one image file.
        name: name of the image in faults.
        max_pixels: largest width times height; checked in the header, before any pixel is decoded.
        raster: bands and stretch of a TIFF, ignored for other images, and what a fourth band is.

    Raises:
        ImageFault: ``not_an_image``, ``undecodable``, ``truncated``, ``too_large``, ``refused_shape`` or
            ``needs_geo_extra``.
    """
    header = raster_header(data)
    choice = raster if header is not None and header.driver == "GTiff" else RasterChoice(alpha=raster.alpha)
    try:
        if header is not None:
            _check_size(header.width, header.height, name, max_pixels)
        return _decode(data, name, max_pixels, header, choice)
    except ImageFault:
        raise
    except ImportError as error:
        found = f"{header.bands} bands of {header.bits} bit" if header else "a raster"
        raise ImageFault("needs_geo_extra", f"{name}: a raster with {found} needs rasterio: {INSTALL}") from error
    except (BlockTooLargeError, Image.DecompressionBombError) as error:
        raise ImageFault("too_large", f"{name} {error}") from error
    except UnidentifiedImageError as error:
        known = data.startswith(_FIRST_BYTES)
        detail = f"{name}: {len(data)} bytes, no image header could be read; begins with {data[:16]!r}"
        raise ImageFault("undecodable" if known else "not_an_image", detail) from error
    except Exception as error:  # Pillow raises nearly any type on malformed bytes; all mean unusable
        ended = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise ImageFault("truncated" if ended else "undecodable", f"{name}: {error!r}") from error


def _decode(data: bytes, name: str, max_pixels: int, header: RasterHeader | None, choice: RasterChoice) -> Image.Image:
    """Chooses the decoder: rasterio for what Pillow cannot read, or not as it is stored."""
    if header is None:
        return _read_with_pillow(data, name, max_pixels, None, choice)
    chosen = bool(choice.bands or choice.stretch or (choice.alpha and header.driver == "GTiff"))
    if header.needs_rasterio or chosen:
        try:
            return _read_with_rasterio(data, header, choice)
        except ImportError:
            if chosen or not header.pillow_serves:
                raise
    try:
        return _read_with_pillow(data, name, max_pixels, header, choice)
    except (UnidentifiedImageError, KeyError) as fault:  # KeyError: a compression that Pillow does not know
        if header.driver != "GTiff" or header.needs_rasterio:
            raise
        try:
            return _read_with_rasterio(data, header, choice)
        except (ImportError, BlockTooLargeError):
            raise
        except Exception:
            raise fault from None  # malformed for both; Pillow's fault is the usual one


def _read_with_rasterio(data: bytes, header: RasterHeader, choice: RasterChoice) -> Image.Image:
    image = Image.fromarray(read_rgb(data, header, choice))
    image.getexif()[_ORIENTATION] = header.orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _read_with_pillow(
    data: bytes, name: str, max_pixels: int, header: RasterHeader | None, choice: RasterChoice
) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(*image.size, name, max_pixels)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _as_rgb(image, header.nodata if header is not None else None, choice.alpha)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises ImageFault, ``too_large`` or ``refused_shape``."""
    if width * height > max_pixels:
        detail = f"{name} is {width} x {height} = {width * height} px, allowed are {max_pixels}"
        raise ImageFault("too_large", detail)
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        detail = f"{name} is {width} x {height} px; one side may be {MAX_SIDE_RATIO} times the other, no more"
        raise ImageFault("refused_shape", detail)


def _as_rgb(image: Image.Image, nodata: float | None, alpha: bool | None) -> Image.Image:
    """The loaded image as a new image in RGB; pixels without data are black."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        valid = np.ones(values.shape, bool) if nodata is None else values != nodata
        grey = to_uint8(values, limits_of(values, valid, None))
        grey[~valid] = 0
        return Image.fromarray(grey).convert("RGB")
    rgb = image.convert("RGB")
    holes = _nodata_holes(image, nodata)
    if holes is not None:
        rgb.paste((0, 0, 0), mask=holes)
    opacity = _opacity(image, alpha)
    if opacity is not None:
        rgb.paste((0, 0, 0), mask=ImageChops.invert(opacity))
    return rgb


def _nodata_holes(image: Image.Image, nodata: float | None) -> Image.Image | None:
    """The pixels whose colours all have the nodata value, 255 in a mask; None where there can be none."""
    if nodata is None or image.mode not in ("L", "LA", "P", "RGB", "RGBA", "RGBX"):
        return None
    table = [255 if value == nodata else 0 for value in range(256)]
    colours = [image.getchannel(band).point(table) for band in range(3 if image.mode.startswith("RGB") else 1)]
    holes = colours[0]
    for colour in colours[1:]:
        holes = ImageChops.darker(holes, colour)
    return holes


def _opacity(image: Image.Image, alpha: bool | None) -> Image.Image | None:
    """The opacity in a mask, or None. A band with grades is near infrared, unless ``alpha`` says that it is opacity."""
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    band = image.getchannel("A")
    if alpha is None:
        grades = [value for value, count in enumerate(band.histogram()) if count and value]
        return band.point([0] + [255] * 255) if len(grades) <= 1 else None
    return band if alpha else None


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
