"""Comparison by the shipped CLIP: rotated copies are found, other images are not, and the stage runs with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rsqa_pipeline.models.embedding import load_image_embedder
from rsqa_pipeline.profile import Compute, Duplicates
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import image_text_pairs
from rsqa_pipeline.source_pairs.duplicates.embedded import EmbeddedImages
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from tests.source_pairs.duplicates.test_remove import DataSet, run, write_picture

CLIP = "rsqa_pipeline/tiny_models/checkpoints/clip"


def test_every_orientation_is_found(tmp_path: Path) -> None:
    image = write_picture(tmp_path / "0.png", 0)
    for number, transpose in enumerate(Image.Transpose, start=1):
        image.transpose(transpose).save(tmp_path / f"{number}.png")
    references = [str(tmp_path / f"{number}.png") for number in range(8)]
    images = EmbeddedImages(references, 10**6, load_image_embedder(CLIP, Compute(device="cpu")), 0.9999)
    found = near_pairs(images, np.array([0]), images, np.arange(8), 0.9999)
    assert sorted(found.second.tolist()) == list(range(1, 8))
    assert images.pixel_counts.tolist() == [96 * 96] * 8


def test_the_stage_with_a_model(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    data.add(data.pictures[1].transpose(Image.Transpose.ROTATE_270), "port_turned")
    profile = data.profile(duplicates=Duplicates(image_model=CLIP, image_threshold=0.9999, text_model=CLIP))
    metrics, out = run(image_text_pairs, data, profile)
    assert metrics["quarantined/near_duplicate"] == 1
    kinds = {row["kind"] for row in read_table(out / "components.parquet")}
    assert kinds == {None, "embedding"}
