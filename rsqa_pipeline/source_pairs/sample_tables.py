"""Writes the tables of a source asset from valid rows: samples, what is known about their truth, quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.geotiff import Georeference
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import (
    GEOREFERENCE,
    IMAGE_TEXT_SAMPLE,
    TRUTH,
    Message,
    Metrics,
    Split,
    sample_id,
    write_table,
)
from rsqa_pipeline.source_pairs.clean import drop_repeats


@dataclass(frozen=True)
class Draft:
    """A sample before repeats are removed, with what is known about its truth."""

    key: str
    """The source's own id, for messages."""
    image_id: str
    image: str
    messages: list[Message]
    task: str
    source: str
    split: Split
    scene_class: str | None
    true_quality: float | None = None
    """1..5; None if the truth is not known."""
    scene: int | None = None
    """Seed of the scene shown."""
    corruption: str | None = None
    original_text: str | None = None
    """The last turn before corruption; None if nothing was corrupted."""
    reference_text: str | None = None
    """A right last turn; None if the source cannot write one."""
    georeference: Georeference | None = None

    @property
    def sample(self) -> dict[str, Any]:
        """Row of `records.IMAGE_TEXT_SAMPLE` and of `records.TRUTH`."""
        return {**vars(self), "sample_id": sample_id(self.image_id, self.messages)}


def write_samples(out: Path, drafts: Sequence[Draft], quarantine: Quarantine) -> Metrics:
    """Writes samples.parquet, truth.parquet and quarantine.parquet into ``out``; exact repeats are quarantined.

    Raises:
        DataError: no sample is left for the corpus or for preferences.
    """
    samples = drop_repeats(((draft.key, draft.sample) for draft in drafts), quarantine)
    splits = Counter(sample["split"] for sample in samples)
    for split in ("preference", "corpus"):
        if not splits[split]:
            raise DataError(
                f"{quarantine.asset}: no sample is left in the split {split!r} (found {dict(splits)}); "
                "add training images, or change source_pairs.preference_share"
            )
    # The column is added only if an image is georeferenced, so that other tables keep their schema.
    georeferenced = any(sample["georeference"] is not None for sample in samples)
    schema = IMAGE_TEXT_SAMPLE.append(GEOREFERENCE) if georeferenced else IMAGE_TEXT_SAMPLE
    write_table(out / "samples.parquet", schema, samples)
    write_table(out / "truth.parquet", TRUTH, samples)
    quarantine.write(out)
    corpus = [sample for sample in samples if sample["split"] == "corpus"]
    known = [sample["true_quality"] for sample in corpus if sample["true_quality"] is not None]
    metrics = {
        **quarantine.metrics(len(samples)),
        "images": float(len({sample["image_id"] for sample in samples})),
        **{f"rows/{split}": float(count) for split, count in sorted(splits.items())},
        "corpus_corrupted_share": sum(sample["corruption"] is not None for sample in corpus) / len(corpus),
    }
    if known:
        metrics["corpus_true_quality"] = sum(known) / len(known)
    return metrics
