"""GeoTIFF: real files of 8 and 16 bit and many bands become RGB; Pillow reads what it can open."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.images.decode import ImageFault, decode_image, open_image
from rsqa_pipeline.images.geotiff import RasterChoice, georeference, tiff_header
from rsqa_pipeline.images.references import ImageReference, parse_reference, with_raster
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, read_table
from rsqa_pipeline.source_pairs import image_text_pairs
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_karpathy

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
GEOREFERENCE = {"crs": "EPSG:32633", "left": 500000.0, "bottom": 5199600.0, "right": 500600.0, "top": 5200000.0}


def write_scene(path: Path, bands: np.ndarray, **options: object) -> Path:
    """A GeoTIFF of 10 m per pixel in UTM zone 33; ``bands`` is (bands, height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    location = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(500000, 5200000, 10, 10)}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **{**location, **options}
    ) as raster:
        raster.write(bands)
    return path


def ramp(bands: int, dtype: type = np.uint16, step: int = 1) -> np.ndarray:
    """(bands, 40, 60): band b runs from b * 10000 (16 bit) up to that and 2399 steps more."""
    values = np.arange(2400).reshape(1, 40, 60) * step + np.arange(bands).reshape(-1, 1, 1) * 1000
    return values.astype(dtype)


def test_eight_bit_rgb_equals_pillow(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8)
    path = write_scene(tmp_path / "rgb.tif", pixels)
    assert np.array_equal(np.asarray(open_image(str(path))), np.moveaxis(pixels, 0, -1))
    chosen = np.asarray(open_image(f"{path}#bands=3,1,1"))
    assert np.array_equal(chosen, np.moveaxis(pixels[[2, 0, 0]], 0, -1))
    assert georeference(path.read_bytes()) == GEOREFERENCE


@pytest.mark.parametrize("bands", [1, 3, 4, 12])
def test_sixteen_bit_is_stretched_between_its_percentiles(bands: int, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", ramp(bands))
    found = np.asarray(open_image(str(path)))
    assert found.shape == (40, 60, 3) and found.dtype == np.uint8
    # by hand: of 0..2399 the percentiles 2 and 98 are 47.98 and 2351.02, so 1200 is (1200 - 47.98) / 2303.04 * 255
    assert found[20, 0].tolist() == [128, 128, 128]
    assert found[0, 0].tolist() == [0, 0, 0] and found[-1, -1].tolist() == [255, 255, 255]
    assert (found == 0).mean() == pytest.approx(0.02, abs=0.003)
    whole = np.asarray(open_image(f"{path}#stretch=0,100"))
    assert whole[20, 0, 0] == round(1200 / 2399 * 255) and whole[0, 1, 0] == 0 and whole[0, 10, 0] == 1


def test_bands_are_chosen_by_number_or_by_their_names_in_the_file(tmp_path: Path) -> None:
    flat = np.zeros((12, 40, 60), np.uint16)
    for band in range(12):
        flat[band, band] = 1000 * (band + 1)  # row b of band b is bright
    path = write_scene(tmp_path / "scene.tif", flat)
    found = np.asarray(open_image(f"{path}#bands=4,3,2;stretch=0,100"))
    assert [np.flatnonzero(found[:, 0, colour]).tolist() for colour in range(3)] == [[3], [2], [1]]
    grey = np.asarray(open_image(f"{path}#bands=12;stretch=0,100"))
    assert [np.flatnonzero(grey[:, 0, colour]).tolist() for colour in range(3)] == [[11]] * 3
    interpretation = rasterio.enums.ColorInterp
    with rasterio.open(path, "r+") as raster:
        named = {1: interpretation.red, 3: interpretation.green, 5: interpretation.blue}
        raster.colorinterp = [named.get(band, interpretation.undefined) for band in range(12)]
    found = np.asarray(open_image(f"{path}#stretch=0,100"))
    assert [np.flatnonzero(found[:, 0, colour]).tolist() for colour in range(3)] == [[1], [3], [5]]
    for wrong in ("13", "0", "1,2,99"):
        with pytest.raises(ImageFault) as caught:
            open_image(f"{path}#bands={wrong}")
        assert caught.value.reason == "undecodable"


def test_no_data_is_black_and_does_not_count(tmp_path: Path) -> None:
    values = ramp(1) + 5000
    values[0, :10] = 0
    path = write_scene(tmp_path / "holes.tif", values, nodata=0)
    found = np.asarray(open_image(f"{path}#stretch=0,100"))
    assert (found[:10] == 0).all()
    assert found[10, 0, 0] == 0 and found[10, 59, 0] > 0 and found[-1, -1, 0] == 255  # stretched over valid pixels only
    empty = write_scene(tmp_path / "empty.tif", np.zeros((1, 4, 4), np.uint16), nodata=0)
    assert (np.asarray(open_image(str(empty))) == 0).all()


def test_sixteen_bit_grey_without_georeference_keeps_its_full_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 257 * 9, np.uint16)).save(tmp_path / "grey.tif")
    assert open_image(str(tmp_path / "grey.tif")).getpixel((0, 0)) == (9, 9, 9)
    assert georeference((tmp_path / "grey.tif").read_bytes()) is None


@pytest.mark.parametrize(
    "options", [{"BIGTIFF": "YES"}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}]
)
def test_other_layouts_of_the_file(options: dict[str, object], tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", ramp(5), **options)
    plain = write_scene(tmp_path / "plain.tif", ramp(5))
    assert np.array_equal(np.asarray(open_image(str(path))), np.asarray(open_image(str(plain))))
    header = tiff_header(path.read_bytes())
    assert header is not None
    assert (header.width, header.height, header.bands, header.bits, header.has_geo) == (60, 40, 5, 16, True)


def test_faults(tmp_path: Path) -> None:
    data = write_scene(tmp_path / "scene.tif", ramp(12)).read_bytes()
    with pytest.raises(ImageFault, match="60 x 40 = 2400 px, allowed are 2399") as caught:
        decode_image(data, max_pixels=2399)
    assert caught.value.reason == "too_large"
    for cut in (9, 200, len(data) // 2):
        with pytest.raises(ImageFault) as caught:
            decode_image(data[:cut])
        assert caught.value.reason in ("undecodable", "truncated")


def test_fault_without_rasterio_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = write_scene(tmp_path / "many.tif", ramp(12))
    deep = write_scene(tmp_path / "deep.tif", ramp(3))
    plain = write_scene(tmp_path / "plain.tif", ramp(3, np.uint8))
    monkeypatch.setitem(sys.modules, "rasterio", None)  # makes the import fail as if it were not installed
    for reference in (str(many), str(deep), f"{plain}#bands=1"):
        with pytest.raises(ImageFault, match=r"pip install 'rsqa-pipeline\[geo\]'") as caught:
            open_image(reference)
        assert caught.value.reason == "needs_geo_extra"
    assert open_image(str(plain)).size == (60, 40)
    assert georeference(plain.read_bytes()) is None


def test_raster_choice_is_part_of_the_reference(tmp_path: Path) -> None:
    choice = RasterChoice((4, 3, 2), (1.0, 99.5))
    for reference in ("a/b c#1.tif", "x.tar#512+99", "t.parquet#7:image"):
        parsed = parse_reference(with_raster(reference, choice))
        assert parsed.raster == choice
        assert with_raster(reference, RasterChoice()) == reference
        assert ImageReference(**{**vars(parsed), "raster": RasterChoice()}) == parse_reference(reference)
    assert parse_reference("x.tar#512+99#stretch=0,100").size == 99
    for choice in (RasterChoice(alpha=True), RasterChoice((1,), alpha=False), RasterChoice(None, (0.0, 100.0), True)):
        assert parse_reference(with_raster("mosaic.png", choice)) == ImageReference("mosaic.png", raster=choice)
    assert parse_reference("plain.tif#") == ImageReference("plain.tif#")


def test_source_stage_keeps_georeference_and_bands(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path)
    for number in range(3):
        write_scene(tmp_path / f"images/port_{number}.tif", ramp(12, step=number + 1))
        sentences = [{"raw": f"port {number}", "sentid": 0}]
        content["images"].append({"filename": f"port_{number}.tif", "split": "train", "sentences": sentences})
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    file = {"path": str(tmp_path / "dataset.json"), "images": str(tmp_path / "images"), "bands": [4, 3, 2]}
    changed = settings(tmp_path, captions=SourceFile(format="karpathy", **file))
    metrics = image_text_pairs.run({}, tmp_path / "out", changed, SilentLogger())
    assert metrics["quarantined_rows"] == 0
    samples = read_table(tmp_path / "out/samples.parquet")
    georeferences = {Path(row["image"]).name: row["georeference"] for row in samples if row["georeference"]}
    assert georeferences == {f"port_{number}.tif#bands=4,3,2": GEOREFERENCE for number in range(3)}
    assert open_image(next(row["image"] for row in samples if row["georeference"])).size == (60, 40)
    assert validate("image_text_sample", tmp_path / "out/samples.parquet").faults == []
    plain = {row["sample_id"] for row in samples if not row["georeference"]}
    image_text_pairs.run({}, tmp_path / "plain", settings(tmp_path), SilentLogger())
    again = read_table(tmp_path / "plain/samples.parquet")
    assert {row["sample_id"] for row in again} >= plain  # the georeference is not part of a sample's identity


def test_table_without_georeferences_has_no_column_for_them(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    image_text_pairs.run({}, tmp_path / "out", settings(tmp_path), SilentLogger())
    assert set(read_table(tmp_path / "out/samples.parquet")[0]) == set(IMAGE_TEXT_SAMPLE.names)


def test_bands_only_apply_to_tiffs(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "a.csv").write_text("image,text\na.png,t\nb.TIF,t\n")
    source = SourceFile(format="csv", path=str(tmp_path / "a.csv"), bands=[2], stretch=(1, 99))
    assert [Path(entry.image).name for entry in read_source(source)] == ["a.png", "b.TIF#bands=2;stretch=1,99"]
    alpha = SourceFile(format="csv", path=str(tmp_path / "a.csv"), bands=[2], fourth_band="near_infrared")
    assert [Path(row.image).name for row in read_source(alpha)] == ["a.png#alpha=no", "b.TIF#bands=2;alpha=no"]
    assert decode_image(buffer.getvalue(), raster=RasterChoice((9,))).size == (4, 4)
    for wrong in ({"bands": [1, 2]}, {"stretch": (98, 2)}, {"stretch": (0, 101)}, {"bands": [0]}):
        with pytest.raises(ValueError, match=r"bands|stretch"):
            SourceFile(format="csv", path="a.csv", **wrong)
