"""Profile section ``source_pairs``: where the data comes from and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from rsqa_pipeline.boxes import Order, Unit
from rsqa_pipeline.images.limits import MAX_BYTES, MAX_PIXELS
from rsqa_pipeline.profile.types import Count, Fraction, Percent, Section


class Corruption(Section):
    """Recorded, systematic faults in a share of the training captions, one habit per source."""

    share: Fraction
    sources: list[Literal["class_swap", "count_change", "vague", "wrong_image"]] = Field(min_length=1)


class Boxes(Section):
    """How the texts of a source write boxes; units are declared, never guessed."""

    unit: Unit
    """``pixels`` of the stored image, a ``fraction`` of its sides, or parts of 100, 999 or 1000."""
    order: Order = "corners"
    """Of four numbers in brackets: two ``corners``, or a corner, width and height, ``xywh``."""


EvaluationFormat = Literal[
    "lhrs_bench", "rsvqa", "dior_rsvg", "vrsbench_captions", "vrsbench_questions", "vrsbench_boxes", "vl_rewardbench",
    "multimodal_rewardbench", "fmow",
]  # fmt: skip
"""Published evaluation files, only for benchmarks: all of their rows are test rows."""
ColumnName = Literal[
    "id", "image", "text", "captions", "messages", "conversations", "split", "source", "task", "scene_class"
]
_FORMATS_WITH_COLUMNS = ("csv", "jsonl", "llava", "webdataset", "hf_parquet")
_FORMATS_OF_CONVERSATIONS = ("jsonl", "llava", "webdataset", "hf_parquet")


class SourceFile(Section):
    """Where image-text data comes from: a file in a known format, or the embedded scenes."""

    format: Literal[
        "scenes", "karpathy", "coco", "llava", "csv", "jsonl", "webdataset", "hf_parquet", "image_folder",
        "class_questions", "nwpu_captions",
    ] | EvaluationFormat  # fmt: skip
    path: str | None = None
    """The file; a folder for ``image_folder``; a file or a folder of files for ``webdataset`` and ``hf_parquet``.
    Scenes need a path for captions only."""
    images: str | None = None
    """Folder of the images that the file names; default: the file's own folder."""
    limit: Count | None = None
    """At most this many images per split, evenly spaced over the file."""
    corruption: Corruption | None = None
    scene_class_from_name: bool = False
    """Take the scene class from the file name's letters before the first underscore, as RSICD does."""
    bands: list[Count] | None = None
    """For TIFFs: bands shown as red, green, blue, or one shown grey, from 1. Default: see `geotiff.RasterChoice`."""
    stretch: tuple[Percent, Percent] | None = None
    """For TIFFs: percentiles of each band mapped to 0 and 255. Default: none for 8-bit values, else 2 and 98."""
    fourth_band: Literal["alpha", "near_infrared"] | None = None
    """What the fourth band is, or the second of two. Alpha is composited over black, near infrared is left out.
    Default: alpha if the file flags it and it has no grades, see `geotiff.RasterChoice`."""
    columns: dict[ColumnName, str] = Field(default={})
    """Name in the file of each column or key that it calls otherwise, e.g. ``{image: filepath, text: title}``."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Separates the columns of a CSV file; default: a comma."""
    caption_prompts: list[str] | None = None
    """Questions whose single answer is a caption; default: those of LLaVA's pre-training. ``[]``: none."""
    boxes: Boxes | None = None
    """Needed to read boxes that are not written as ``[x0, y0, x1, y1]`` in pixels."""
    repeats_expected: bool = False
    """Whether same image, same text is usual in this source, so that repeats do not count as faults."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The file, the files that belong to it, and the image folder, as far as they are named."""
        beside: list[str | None] = []
        if self.format == "rsvqa" and self.path is not None:
            file = Path(self.path)
            beside = [str(file.with_name(file.name.replace("questions", part))) for part in ("answers", "images")]
        return tuple(path for path in (self.path, *beside, self.images) if path is not None)

    @property
    def is_evaluation(self) -> bool:
        return self.format in get_args(EvaluationFormat)

    @model_validator(mode="after")
    def _settings_fit_the_format(self) -> SourceFile:
        if self.columns and self.format not in _FORMATS_WITH_COLUMNS:
            raise ValueError(f"columns is read by {', '.join(_FORMATS_WITH_COLUMNS)}, found format {self.format}")
        if self.delimiter is not None and (self.format != "csv" or self.delimiter in '"\r\n\0'):
            raise ValueError(f"delimiter is one character of a csv file, found {self.delimiter!r}, {self.format}")
        if self.caption_prompts is not None and self.format not in _FORMATS_OF_CONVERSATIONS:
            raise ValueError(f"caption_prompts needs a format of conversations, found {self.format}")
        return self

    @model_validator(mode="after")
    def _evaluation_files_are_read_whole(self) -> SourceFile:
        refused = ("limit", "corruption", "scene_class_from_name", "bands", "stretch", "fourth_band")
        set_here = [name for name in refused if getattr(self, name)]
        if self.is_evaluation and set_here:
            raise ValueError(f"format {self.format} is read as published; leave out {', '.join(set_here)}")
        return self

    @model_validator(mode="after")
    def _bands_can_be_shown(self) -> SourceFile:
        if self.bands is not None and len(self.bands) not in (1, 3):
            raise ValueError(f"bands must be three, or one shown grey, found {self.bands}")
        if self.stretch is not None and self.stretch[0] >= self.stretch[1]:
            raise ValueError(f"stretch must run from the lower to the higher percentile, found {self.stretch}")
        return self


class Duplicates(Section):
    """Keeps one of several near-duplicate images, and trains on nothing of a benchmark (paper, preference data)."""

    image_model: str | None = None
    """Model that compares images: copy detection or CLIP, folder or hub id; None compares images perceptually."""
    image_threshold: Fraction | None = None
    """Minimum similarity of near-duplicate images. Default: 0.88 perceptually; 0.65 with a model, which fits
    copy-detection embeddings. CLIP needs more, e.g. 0.95."""
    text_model: str | None = None
    """Model that compares the questions of near-duplicate images: a sentence model or CLIP; None uses word TF-IDF."""
    text_threshold: Fraction = 0.65
    """Minimum cosine of similar questions."""
    benchmarks: dict[str, SourceFile] = Field(default={})
    """Further test sets that must not be trained on, by name. The profile's own benchmarks are always included."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Files of the further test sets, and local model folders."""
        files = [path for source in self.benchmarks.values() for path in source.paths]
        models = [model for model in (self.image_model, self.text_model) if model is not None]
        return (*files, *(model for model in models if Path(model).is_dir()))


class SourcePairs(Section):
    captions: SourceFile
    instructions: SourceFile | None
    """None, together with ``benchmarks``: captions alone. The assets then end at the curated subsets."""
    benchmarks: SourceFile | None
    preference_share: Fraction
    """Share of the training images kept for building preferences; the rest is the corpus to curate."""
    instruction_samples: Count
    benchmark_items: Count
    """Items of each benchmark task."""
    duplicates: Duplicates | None = None
    """None removes exact repeats only, and checks no benchmark."""
    max_image_pixels: Annotated[Count, Field(le=MAX_PIXELS)] = MAX_PIXELS
    """Width times height. Not above the default: every later stage opens images with that limit."""
    max_image_bytes: Annotated[Count, Field(le=MAX_BYTES)] = MAX_BYTES
    """Of an image file; looked at before it is read. Not above the default, as `max_image_pixels`."""
    max_quarantined_share: Fraction = 0.05
    """The asset's check fails above this share. Repeats count, unless the source has ``repeats_expected``."""

    @property
    def captions_alone(self) -> bool:
        return self.instructions is None

    @model_validator(mode="after")
    def _evaluation_files_are_benchmarks(self) -> SourcePairs:
        further = self.duplicates.benchmarks.values() if self.duplicates else ()
        for source in (self.captions, self.instructions, *further):
            if source is not None and source.is_evaluation:
                raise ValueError(f"format {source.format} is only for source_pairs.benchmarks, found at {source.path}")
        return self

    @model_validator(mode="after")
    def _captions_alone_or_all(self) -> SourcePairs:
        if (self.instructions is None) != (self.benchmarks is None):
            raise ValueError("instructions and benchmarks are given together, or both are null: captions alone")
        if self.captions_alone and self.duplicates is not None:
            raise ValueError("duplicates compares with benchmarks; set it to null where there are captions alone")
        return self
