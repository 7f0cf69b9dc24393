"""`images.decode`: every kind of unusable image has a reason; every band layout becomes RGB."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor, Qwen2VLImageProcessor, SiglipImageProcessor

from rsqa_pipeline.images.decode import (
    REASONS,
    ImageFault,
    TarImages,
    decode_image,
    hash_image,
    open_image,
    read_bytes,
)
from rsqa_pipeline.images.limits import MAX_BYTES
from tests.source_pairs.generated import two_tone_png


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bad_bytes() -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(Image.fromarray(noise()), "JPEG")
    png = encoded(Image.fromarray(noise()))
    broken = bytearray(png)
    broken[60:200] = b"\0" * 140
    return {
        "zero-byte": (b"", "zero_bytes"),
        "text named .jpg": (b"not an image, but a line of text\n" * 20, "not_an_image"),
        "half a jpeg": (jpeg[: len(jpeg) // 2], "truncated"),
        "half a png": (png[: len(png) // 2], "truncated"),
        "first bytes of a jpeg": (jpeg[:10], "truncated"),
        "broken png": (bytes(broken), "undecodable"),
        "20,000 x 20,000": (two_tone_png(20_000, 20_000), "too_large"),
        "11,000 x 10,000": (two_tone_png(11_000, 10_000), "too_large"),
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", list(bad_bytes()))
def test_unusable_file_gives_its_reason(case: str, tmp_path: Path) -> None:
    data, reason = bad_bytes()[case]
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageFault) as caught:
        open_image(str(path))
    assert caught.value.reason == reason
    assert reason in REASONS
    assert str(path) in caught.value.detail


def test_size_of_a_file_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no space on the disk
    for reference in (str(path), f"{path}#0+{MAX_BYTES + 1}"):
        with pytest.raises(ImageFault, match=f"{MAX_BYTES + 1} bytes, allowed are {MAX_BYTES}") as caught:
            read_bytes(reference)
        assert caught.value.reason == "too_large"
    path.write_bytes(encoded(Image.fromarray(noise())))
    assert len(read_bytes(str(path), path.stat().st_size)) == path.stat().st_size


@pytest.mark.parametrize("reference", ["pipe.png", "pipe.tar#0+10", "pipe.parquet#0:image", "pipe.tif#bands=1"])
def test_pipes_and_devices_are_not_opened(reference: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / reference.partition("#")[0])
    for name in (str(tmp_path / reference), "/dev/zero", "/dev/zero#0+10"):
        with pytest.raises(ImageFault) as caught:
            open_image(name)  # opening a pipe would wait for ever
        assert caught.value.reason == "not_a_file"


@pytest.mark.parametrize(("width", "height"), [(201, 1), (1, 201), (2010, 10)])
def test_shape_that_image_processors_refuse_is_refused_at_once(width: int, height: int) -> None:
    for format_ in ("PNG", "JPEG", "TIFF", "BMP"):
        with pytest.raises(ImageFault, match=f"{width} x {height} px") as caught:
            decode_image(encoded(Image.new("RGB", (width, height)), format_))
        assert caught.value.reason == "refused_shape"
    assert decode_image(encoded(Image.new("RGB", (200, 1)))).size == (200, 1)


@pytest.mark.parametrize("size", [(200, 1), (1, 200), (1, 1), (3, 3), (5, 900)])
def test_shapes_that_are_accepted_pass_every_image_processor(size: tuple[int, int]) -> None:
    image = decode_image(encoded(Image.new("RGB", size)))
    for processor in (CLIPImageProcessor(), SiglipImageProcessor(), Qwen2VLImageProcessor()):
        assert processor(images=[image], return_tensors="np")["pixel_values"][0].size


@pytest.mark.parametrize("name", ["gone.png", "", "null\0.png", "gone.tar#512+10"])
def test_missing_file_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageFault) as caught:
        open_image(str(tmp_path / name) if name else str(tmp_path))
    assert caught.value.reason == "missing_image"


def test_generated_two_tone_image_is_valid() -> None:
    assert decode_image(two_tone_png(300, 200)).size == (300, 200)


def test_huge_image_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (200, 100)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageFault, match="200 x 100 = 20000 px, allowed are 19999"):
        decode_image(data, max_pixels=19_999)


def test_allowed_size_is_inclusive() -> None:
    assert decode_image(encoded(Image.new("L", (200, 100))), max_pixels=20_000).size == (200, 100)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 7), (7, 7, 7)),
        (Image.new("LA", (4, 4), (200, 0)), (0, 0, 0)),
        (Image.new("RGBA", (4, 4), (200, 100, 50, 255)), (200, 100, 50)),
        (Image.new("RGBA", (4, 4), (200, 100, 50, 0)), (0, 0, 0)),
        (Image.new("P", (4, 4), 0), (0, 0, 0)),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 257 * 9, np.uint16)), (9, 9, 9)),
    ],
)
def test_png_modes_become_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    decoded = decode_image(encoded(image))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((1, 2)) == expected


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((3, 3))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_float_values_are_stretched_and_holes_are_black() -> None:
    values = np.array([[0.5, 1.5], [2.5, np.nan]], np.float32)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))
    assert decoded[:, :, 0].tolist() == [[0, 128], [255, 0]]
    with pytest.raises(ImageFault, match="finite"):
        decode_image(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated, to be shown turned by 90 degrees
    assert decode_image(encoded(Image.fromarray(noise(24, 32)), "JPEG", exif=exif)).size == (24, 32)


@settings(deadline=None)
@given(cut=st.integers(0, 400), garbage=st.binary(max_size=12), at=st.integers(0, 400))
def test_damaged_bytes_give_an_image_or_a_known_reason(cut: int, garbage: bytes, at: int) -> None:
    data = bytearray(encoded(Image.fromarray(noise(8, 8)), "JPEG"))
    data[at : at + len(garbage)] = garbage
    try:
        assert decode_image(bytes(data[: len(data) - cut])).mode == "RGB"
    except ImageFault as fault:
        assert fault.reason in REASONS


def test_tar_references_return_the_pixels_and_the_archive_is_reproducible(tmp_path: Path) -> None:
    pictures = [noise(16, 16), noise(40, 24), np.zeros((8, 8, 3), np.uint8)]
    for name in ("one.tar", "two.tar"):
        with TarImages(tmp_path / name) as archive:
            added = [archive.add(f"scene_{i}.png", pixels) for i, pixels in enumerate(pictures)]
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    for (image_id, reference), pixels in zip(added, pictures, strict=True):
        assert hash_image(read_bytes(reference)) == image_id
        assert np.array_equal(np.asarray(open_image(reference)), pixels)
    with tarfile.open(tmp_path / "two.tar") as tar:
        assert tar.getnames() == ["scene_0.png", "scene_1.png", "scene_2.png"]


def test_truncated_tar_is_reported(tmp_path: Path) -> None:
    with TarImages(tmp_path / "images.tar") as archive:
        _, reference = archive.add("scene.png", noise())
    data = (tmp_path / "images.tar").read_bytes()
    (tmp_path / "images.tar").write_bytes(data[:700])
    with pytest.raises(ImageFault) as caught:
        read_bytes(reference)
    assert caught.value.reason == "truncated"


def test_sixteen_bit_colour_is_stretched_per_band() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">6H", 65535, 257 * 9, 0, 0, 32768, 257)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    decoded = decode_image(png)
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (0, 255, 255)]


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_turned_upright(turn: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255  # bright at the top left when shown correctly
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1), 7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(np.asarray(decode_image(encoded(Image.fromarray(stored.copy()), "PNG", exif=exif))), upright)
