"""Rasters are decoded by their pixels: type, bands, photometric and nodata decide, geographic tags do not."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.images.decode import REASONS, ImageFault, decode_image
from rsqa_pipeline.images.geotiff import RasterChoice
from rsqa_pipeline.images.limits import MAX_PIXELS

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64", "complex128")


def raster_bytes(bands: np.ndarray, driver: str = "GTiff", geo: bool = False, **options: object) -> bytes:
    """The file of (bands, height, width); with ``geo``, 10 m per pixel in UTM zone 33."""
    location = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500000, 5200000, 10, 10)}
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with warnings.catch_warnings(), rasterio.MemoryFile() as file:
        warnings.simplefilter("ignore")
        with file.open(driver=driver, **shape, **(location if geo else {}), **options) as raster:
            raster.write(bands)
        return bytes(file.read())


def landscape(count: int, dtype: str = "uint16", low: int = 300, high: int = 1500) -> np.ndarray:
    """(count, 40, 60) values of low..high, as reflectances are: a small part of what 16 bit can hold."""
    values = np.random.default_rng(3).uniform(low, high, (count, 40, 60))
    return values.astype(dtype)


def shown(data: bytes, **options: object) -> np.ndarray:
    return np.asarray(decode_image(data, **options))


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JP2OpenJPEG"])
@pytest.mark.parametrize("count", [1, 3])
def test_sixteen_bit_without_tags_is_stretched_as_with_them(driver: str, count: int) -> None:
    bands = landscape(count)
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    found = shown(raster_bytes(bands, driver, **lossless))
    assert np.array_equal(found, shown(raster_bytes(bands, geo=True)))
    assert found.min() == 0 and found.max() == 255 and 100 < found.mean() < 155


def test_sixteen_bit_grey_is_the_same_without_rasterio(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [raster_bytes(landscape(1, dtype), nodata=0) for dtype in ("uint16", "int16", "int32", "float32")]
    files.append(raster_bytes(landscape(1), "PNG"))
    whole = [shown(data) for data in files]
    monkeypatch.setitem(sys.modules, "rasterio", None)  # makes the import fail as if it were not installed
    assert all(np.array_equal(shown(data), expected) for data, expected in zip(files, whole, strict=True))
    for data in (raster_bytes_png_rgb(), raster_bytes_float64()):
        with pytest.raises(ImageFault, match=r"rsqa-pipeline\[geo\]") as caught:
            decode_image(data)
        assert caught.value.reason == "needs_geo_extra"


def raster_bytes_png_rgb() -> bytes:
    return raster_bytes(landscape(3), "PNG")


def raster_bytes_float64() -> bytes:
    return raster_bytes(landscape(1, "float64"))


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_without_a_photometric_of_colours_is_read(dtype: str, count: int) -> None:
    bands = landscape(count, dtype, *((-100, 100) if dtype == "int8" else (10, 120)))
    found = shown(raster_bytes(bands, photometric="MINISBLACK"))
    assert found.shape == (40, 60, 3)
    if dtype == "uint8":
        assert np.array_equal(found, np.moveaxis(bands[[0, 0, 0] if count == 1 else [0, 1, 2]], 0, -1))
    else:
        order = np.abs(bands[0]) if "complex" in dtype else bands[0]
        assert np.corrcoef(order.ravel(), found[..., 0].ravel())[0, 1] > 0.99


def test_complex_values_are_shown_by_their_magnitude() -> None:
    magnitude = landscape(1, "float64")
    turned = magnitude * np.exp(1j * np.random.default_rng(0).uniform(0, 6, magnitude.shape))
    difference = shown(raster_bytes(turned)).astype(int) - shown(raster_bytes(magnitude))
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("geo", [False, True])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 255), ("uint16", 65535), ("int16", -9999), ("float32", -9999)])
@pytest.mark.parametrize("count", [1, 3])
def test_nodata_is_black_and_does_not_count(dtype: str, nodata: int, count: int, geo: bool) -> None:
    bands = landscape(count, dtype, 10, 200)
    whole = bands.copy()
    bands[:, 30:] = nodata
    found = shown(raster_bytes(bands, nodata=nodata, geo=geo))
    assert (found[30:] == 0).all()
    assert np.array_equal(found[:30], shown(raster_bytes(whole[:, :30], geo=geo)))


def test_a_bright_pixel_is_not_a_hole_because_one_colour_has_the_nodata_value() -> None:
    bands = landscape(3, "uint8", 10, 200)
    bands[0, 5, 5] = 255
    assert shown(raster_bytes(bands, nodata=255))[5, 5].tolist() == bands[:, 5, 5].tolist()


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_fourth_band_is_alpha_only_without_grades_or_if_chosen(driver: str, dtype: str) -> None:
    bands = landscape(4, dtype, 10, 200)
    colours = shown(raster_bytes(bands[:3], driver))
    flagged = {} if driver == "PNG" else {"photometric": "RGB", "alpha": "yes"}
    graded = raster_bytes(bands, driver, **flagged)
    assert np.array_equal(shown(graded), colours)
    assert np.array_equal(shown(graded, raster=RasterChoice(alpha=False)), colours)
    full = float(np.iinfo(dtype).max)
    dimmed = shown(graded, raster=RasterChoice(alpha=True))
    opacity = bands[3][..., None] / full
    assert np.abs(dimmed - colours * opacity).max() <= (1 if dtype == "uint8" else 255)
    assert dimmed.mean() < colours.mean()
    bands[3] = np.iinfo(dtype).max
    bands[3, :10] = 0
    masked = shown(raster_bytes(bands, driver, **flagged))
    assert (masked[:10] == 0).all()
    if dtype == "uint8":
        assert np.array_equal(masked[10:], colours[10:])
    assert masked[10:].mean() > 50


def test_near_infrared_flagged_as_premultiplied_alpha_leaves_the_colours_alone() -> None:
    bands = landscape(4, "uint8", 10, 200)
    found = shown(raster_bytes(bands, photometric="RGB", alpha="premultiplied"))
    assert np.array_equal(found, np.moveaxis(bands[:3], 0, -1))


def test_a_turned_sixteen_bit_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for format_ in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(landscape(1)[0]).save(buffer, format_, exif=exif)
        assert decode_image(buffer.getvalue()).size == (40, 60)


@settings(deadline=None, max_examples=150)
@given(
    dtype=st.sampled_from(TYPES),
    count=st.integers(1, 6),
    photometric=st.sampled_from(["MINISBLACK", "MINISWHITE", "RGB"]),
    interleave=st.sampled_from(["pixel", "band"]),
    nodata=st.sampled_from([None, 0, 17]),
    extreme=st.booleans(),
    alpha=st.sampled_from([None, True, False]),
    compress=st.sampled_from(["none", "deflate", "lzw", "zstd"]),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 5),
)
def test_any_raster_is_an_image_or_a_named_fault_with_and_without_tags(
    dtype: str, count: int, photometric: str, interleave: str, nodata: int | None, extreme: bool,
    alpha: bool | None, compress: str, size: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    bands = random.integers(0, 100, (count, *size)).astype(dtype)
    if extreme and dtype.startswith(("float", "complex")):
        limits = np.finfo(dtype)
        bands.flat[:: random.integers(2, 9)] = random.choice([limits.max, limits.min, np.inf, -np.inf, np.nan])
    options = {"photometric": photometric if count >= 3 or photometric != "RGB" else "MINISBLACK"}
    options |= {"interleave": interleave, "compress": compress} | ({} if nodata is None else {"nodata": nodata})
    found = []
    for geo in (False, True):
        try:
            image = decode_image(raster_bytes(bands, geo=geo, **options), raster=RasterChoice(alpha=alpha))
            assert (image.mode, image.size) == ("RGB", size[::-1])
            found.append(image.tobytes())
        except ImageFault as fault:
            assert fault.reason in REASONS
            found.append(fault.reason)
    assert found[0] == found[1]


def peak_of(path: Path) -> tuple[str, int]:
    """Outcome of opening an image in a process of its own, and that process's peak memory above its start, bytes."""
    code = (
        "import resource, sys\n"
        "import rasterio\n"
        "from rsqa_pipeline.images.decode import ImageFault, open_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "try: found = str(open_image(sys.argv[1]).size)\n"
        "except ImageFault as fault: found = fault.reason\n"
        "print(found, peak() - before, sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    found, peak = done.stdout.strip().split("|")
    return found, int(peak)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "float64", "count": 1, "tiled": True}, "(10000, 10000)"),
        ({"dtype": "uint16", "count": 12, "tiled": True, "interleave": "pixel"}, "(10000, 10000)"),
        ({"dtype": "float64", "count": 3, "blockysize": 10000, "compress": "deflate"}, "too_large"),
        ({"dtype": "uint8", "count": 4, "tiled": True, "photometric": "RGB", "alpha": "yes"}, "(10000, 10000)"),
    ],
)
def test_memory_of_a_decode_is_bounded(options: dict[str, object], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", width=10_000, height=10_000, SPARSE_OK="TRUE", **options):
            pass
    assert path.stat().st_size < 2_000_000 and MAX_PIXELS >= 10_000**2
    found, peak = peak_of(path)
    assert found == expected
    assert peak < 2**30


def test_large_rasters_are_shown_whole_and_stretched_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    data = raster_bytes(landscape(3), nodata=301)
    whole = shown(data).astype(int)
    monkeypatch.setattr("rsqa_pipeline.images.geotiff._STRIP_PIXELS", 300)
    assert np.array_equal(shown(data), whole)
    monkeypatch.setattr("rsqa_pipeline.images.geotiff._SAMPLED_PIXELS", 600)
    assert np.abs(shown(data) - whole).max() < 12
