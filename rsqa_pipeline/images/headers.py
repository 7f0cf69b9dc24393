"""Headers of the formats that can hold more than 8 bits, read without decoding: TIFF, PNG and JPEG 2000."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

from PIL import Image, TiffImagePlugin

_TIFF_BYTES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_BYTES = b"\x89PNG\r\n\x1a\n"
_JP2_BYTES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_CODESTREAM = b"\xff\x4f\xff\x51"  # start and size markers of JPEG 2000
_GEO_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transformation, geo keys
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _BANDS = 256, 257, 258, 262, 274, 277
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _NODATA = 338, 339, 42113
_BYTE_COUNTS = (279, 325)  # of strips and tiles
_UNSIGNED, _CMYK, _PREMULTIPLIED = 1, 5, 1
_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PILLOW_BANDS = 4


@dataclass(frozen=True)
class RasterHeader:
    """What the header of a TIFF, PNG or JPEG 2000 file says; of a TIFF, its first directory."""

    driver: Literal["GTiff", "PNG", "JP2OpenJPEG"]
    width: int
    height: int
    bands: int
    bits: int
    """Bits of the widest band."""
    has_geo: bool = False
    unsigned: bool = True
    cmyk: bool = False
    premultiplied: bool = False
    """The colours are stored multiplied by alpha."""
    sparse: bool = False
    """Parts of the image are not stored; they have no data."""
    nodata: float | None = None
    orientation: int = 1
    """How the image is turned, as in EXIF."""

    @property
    def more_than_eight_bit(self) -> bool:
        """Whether the pixels are not shown as they are stored: more than 8 bits, signed, float or complex."""
        return self.bits > 8 or not self.unsigned

    @property
    def needs_rasterio(self) -> bool:
        """Whether Pillow cannot read the pixels, or not as they are stored."""
        unlike = self.more_than_eight_bit or self.bands > _PILLOW_BANDS or self.premultiplied
        return self.sparse or (unlike and not self.cmyk)

    @property
    def pillow_serves(self) -> bool:
        """Whether Pillow reads the values that rasterio reads: what an installation without rasterio can show."""
        if not self.more_than_eight_bit:
            return self.bands <= _PILLOW_BANDS
        return self.bands == 1 and (8 < self.bits <= 16 or (self.bits == 32 and not self.unsigned))


def raster_header(data: bytes) -> RasterHeader | None:
    """The header; None for bytes of another format and for an unreadable header."""
    try:
        if data.startswith(_TIFF_BYTES):
            return _tiff(data)
        if data.startswith(_PNG_BYTES):
            return _png(data)
        if data.startswith(_JP2_BYTES):
            return _jpeg_2000(data)
    except Exception:  # malformed bytes raise nearly any type; decoding reports the fault
        return None
    return None


def _png(data: bytes) -> RasterHeader:
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    exif = Image.Exif()
    if bits > 8:  # Pillow turns the others itself
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            exif.load(image.info.get("exif", b""))
    return RasterHeader("PNG", width, height, _PNG_BANDS[colour], bits, orientation=exif.get(_ORIENTATION, 1))


def _tiff(data: bytes) -> RasterHeader:
    big = data[2] == 43 or data[3] == 43
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    extra = directory.get(_EXTRA_SAMPLES, ())
    return RasterHeader(
        driver="GTiff",
        width=int(directory[_WIDTH]),
        height=int(directory[_HEIGHT]),
        bands=int(directory.get(_BANDS, 1)),
        bits=max(_as_tuple(directory.get(_BITS, 1))),
        has_geo=any(tag in directory for tag in _GEO_TAGS),
        unsigned=all(format_ == _UNSIGNED for format_ in _as_tuple(directory.get(_SAMPLE_FORMAT, 1))),
        cmyk=directory.get(_PHOTOMETRIC) == _CMYK,
        premultiplied=_PREMULTIPLIED in _as_tuple(extra),
        sparse=any(0 in _as_tuple(directory.get(counts, 1)) for counts in _BYTE_COUNTS),
        nodata=_number(directory.get(_NODATA)),
        orientation=int(directory.get(_ORIENTATION, 1)),
    )


def _as_tuple(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _number(text: object) -> float | None:
    try:
        return float(str(text).strip("\0 "))
    except ValueError:
        return None


def _jpeg_2000(data: bytes) -> RasterHeader:
    size = data.index(_CODESTREAM) + len(_CODESTREAM)
    right, bottom, left, top = struct.unpack(">IIII", data[size + 4 : size + 20])
    bands = int.from_bytes(data[size + 36 : size + 38], "big")
    depths = data[size + 38 : size + 38 + 3 * bands : 3]
    bits = max((depth & 0x7F) + 1 for depth in depths)
    unsigned = not any(depth & 0x80 for depth in depths)
    return RasterHeader("JP2OpenJPEG", right - left, bottom - top, bands, bits, unsigned=unsigned)
