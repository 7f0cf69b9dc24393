"""Profile section ``source_pairs``: where the data comes from and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, Fraction, Percent, Section


class Corruption(Section):
    """Recorded, systematic faults put into a share of the training captions, one habit a source."""

    share: Fraction
    sources: list[Literal["class_swap", "count_change", "vague", "wrong_image"]] = Field(min_length=1)


class SourceFile(Section):
    """Where image-text data comes from: a file in a known format, or the embedded scenes."""

    format: Literal[
        "scenes", "karpathy", "coco", "llava", "csv", "jsonl", "webdataset", "hf_parquet", "image_folder",
        "class_questions",
    ]  # fmt: skip
    path: str | None = None
    """The file; a folder for ``image_folder``; a file or a folder of them for ``webdataset`` and ``hf_parquet``. Scenes
    need one for captions only."""
    images: str | None = None
    """Folder that the file's image names are in; default: the file's own folder."""
    limit: Count | None = None
    """At most this many images a split, taken evenly over the file."""
    corruption: Corruption | None = None
    scene_class_from_name: bool = False
    """Take the scene class from the file name's letters before the first underscore, as RSICD does."""
    bands: list[Count] | None = None
    """Of TIFFs: bands shown as red, green, blue, or one shown grey, from 1. Default: see `geotiff.RasterChoice`."""
    stretch: tuple[Percent, Percent] | None = None
    """Of TIFFs: percentiles of each band that become 0 and 255. Default: 8-bit values stay, others take 2, 98."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The file and the image folder, as far as they are named."""
        return tuple(path for path in (self.path, self.images) if path is not None)

    @model_validator(mode="after")
    def _bands_can_be_shown(self) -> SourceFile:
        if self.bands is not None and len(self.bands) not in (1, 3):
            raise ValueError(f"bands must be three, or one shown grey, found {self.bands}")
        if self.stretch is not None and self.stretch[0] >= self.stretch[1]:
            raise ValueError(f"stretch must run from the lower to the higher percentile, found {self.stretch}")
        return self


class Duplicates(Section):
    """Near-duplicate images keep one of a kind, and nothing of a benchmark is trained on (paper, preference data)."""

    image_model: str | None = None
    """What compares images: a copy-detection model or CLIP, folder or hub id; None compares them perceptually."""
    image_threshold: Fraction | None = None
    """Similarity from which on images are near-duplicates; default 0.88 perceptually, 0.65 for a model, which fits
    copy-detection embeddings. A CLIP needs more, e.g. 0.95."""
    text_model: str | None = None
    """What compares the questions of near-duplicate images: a sentence model or CLIP; None takes TF-IDF of words."""
    text_threshold: Fraction = 0.65
    """Cosine from which on questions are alike."""
    benchmarks: dict[str, SourceFile] = Field(default={})
    """Further test sets that must not be trained on, by name; the profile's own is one always."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Files of the further test sets, and local model folders."""
        files = [path for source in self.benchmarks.values() for path in source.paths]
        models = [model for model in (self.image_model, self.text_model) if model is not None]
        return (*files, *(model for model in models if Path(model).is_dir()))


class SourcePairs(Section):
    captions: SourceFile
    instructions: SourceFile
    benchmarks: SourceFile
    preference_share: Fraction
    """Share of the training images kept for building preferences; the rest is the corpus to curate."""
    instruction_samples: Count
    benchmark_items: Count
    """Items of each benchmark task."""
    duplicates: Duplicates | None = None
    """None removes exact repeats only, and looks at no benchmark."""
    max_image_pixels: Count = 100_000_000
    max_quarantined_share: Fraction = 0.05
    """The asset's check fails above this share."""
