"""Removes benchmark items, then near-duplicates, from a source's samples; every removed sample is quarantined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import COMPONENT, CONTAMINATION, Metrics, write_table
from rsqa_pipeline.source_pairs.duplicates.benchmark_items import read_items
from rsqa_pipeline.source_pairs.duplicates.components import Components, find_components, keepers
from rsqa_pipeline.source_pairs.duplicates.contamination import find_contamination
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Ints
from rsqa_pipeline.source_pairs.duplicates.questions import question_of, similar_pairs, text_vectors
from rsqa_pipeline.source_pairs.duplicates.read_images import read_images, threshold_of
from rsqa_pipeline.source_pairs.sample_tables import Draft

_SPLIT_PRIORITY = {"preference": 0, "corpus": 0, "validation": 1, "test": 2}


def remove(
    drafts: Sequence[Draft],
    settings: Profile,
    benchmark_sets: Path,
    quarantine: Quarantine,
    out: Path,
    by_question: bool,
) -> tuple[list[Draft], Metrics]:
    """Returns the remaining drafts, in order, and metrics.

    Writes components.parquet and decontamination.parquet into ``out``. Training samples that share an image or a text
    with a benchmark item are added to ``quarantine`` as ``in_benchmark``. Of the remaining images, each component of
    near-duplicates keeps one, by `_rank`; the samples of the others are added as ``near_duplicate``.

    Args:
        benchmark_sets: output folder of that asset.
        by_question: samples on near-duplicate images, or on the same image, are near-duplicates only if their questions
            are similar too; one of the samples with similar questions is kept.

    Raises:
        DataError: a further benchmark file cannot be used at all.
        ModelError: a model cannot be loaded.
    """
    config = settings.source_pairs.duplicates
    assert config is not None  # checked by the caller
    max_pixels = settings.source_pairs.max_image_pixels
    unreadable = Quarantine("further benchmarks")
    items = read_items(benchmark_sets, config.benchmarks, max_pixels, unreadable)
    distinct = _DistinctImages.of(drafts)
    images = read_images(distinct.references, config, max_pixels, settings)
    ledger = find_contamination(drafts, distinct.row, images, items, config, settings)
    write_table(out / "decontamination.parquet", CONTAMINATION, ledger)
    clean = _without_benchmark(drafts, ledger, quarantine)
    rows = np.unique(np.array([distinct.row[draft.image_id] for draft in clean], np.int64))
    rank = _rank(clean, distinct, images)
    components = find_components(images, rows, rank, threshold_of(config))
    keeper = _sample_keeper(clean, distinct, components, rank, config, settings) if by_question else None
    remaining = _without_duplicates(clean, distinct, components, keeper, quarantine)
    _write_components(out, distinct, components, {draft.image_id for draft in remaining}, config)
    return remaining, {
        "near_duplicate_components": float(len(set(components.keeper[list(components.evidence)].tolist()))),
        "unreadable_benchmark_rows": float(len(unreadable.rows)),
    }


@dataclass(frozen=True)
class _DistinctImages:
    """The distinct images of the drafts."""

    ids: list[str]
    references: list[str]
    row: dict[str, int]

    @classmethod
    def of(cls, drafts: Sequence[Draft]) -> _DistinctImages:
        first = {draft.image_id: draft.image for draft in reversed(drafts)}
        ids = sorted(first)
        return cls(ids, [first[image_id] for image_id in ids], {image_id: row for row, image_id in enumerate(ids)})


def _rank(drafts: Sequence[Draft], distinct: _DistinctImages, images: ImageSet) -> list[tuple[int, int, str]]:
    """One sort key per image; a component keeps the lowest. Test images come first, then validation, then training
    images, so that no training image resembles a held-out one. Ties: the most pixels, then the lowest id."""
    priority = dict.fromkeys(distinct.ids, 0)
    for draft in drafts:
        priority[draft.image_id] = max(priority[draft.image_id], _SPLIT_PRIORITY[draft.split])
    return [
        (-priority[image_id], -int(pixels), image_id)
        for image_id, pixels in zip(distinct.ids, images.pixel_counts, strict=True)
    ]


def _without_benchmark(
    drafts: Sequence[Draft], ledger: Sequence[dict[str, Any]], quarantine: Quarantine
) -> list[Draft]:
    found = {entry["sample_id"]: entry for entry in reversed(ledger)}
    remaining = []
    for draft in drafts:
        entry = found.get(draft.sample["sample_id"])
        if entry is None:
            remaining.append(draft)
            continue
        what = f"{entry['kind']} ({entry['similarity']:.3f}) as {entry['item_id']} of {entry['benchmark']}"
        quarantine.add(entry["sample_id"], "in_benchmark", f"{draft.key}: {what}")
    return remaining


def _without_duplicates(
    drafts: Sequence[Draft],
    distinct: _DistinctImages,
    components: Components,
    keeper: Ints | None,
    quarantine: Quarantine,
) -> list[Draft]:
    """
    Args:
        keeper: (n,) for each draft, the draft kept in its place; None if images are removed with all their drafts.
    """
    remaining = []
    for number, draft in enumerate(drafts):
        image = distinct.row[draft.image_id]
        kept = components.keeper[image] if keeper is None else distinct.row[drafts[keeper[number]].image_id]
        if (kept == image) if keeper is None else (keeper[number] == number):
            remaining.append(draft)
            continue
        detail = f"{draft.key}: kept is image {distinct.ids[kept]}"
        if image in components.evidence:
            other, similarity = components.evidence[image]
            detail += f"; image {draft.image_id} is most like {distinct.ids[other]} ({similarity:.3f})"
        if keeper is not None:
            detail += f"; its question is like that of sample {drafts[keeper[number]].sample['sample_id']}"
        quarantine.add(draft.sample["sample_id"], "near_duplicate", detail)
    return remaining


def _sample_keeper(
    drafts: Sequence[Draft],
    distinct: _DistinctImages,
    components: Components,
    rank: Sequence[Any],
    config: Duplicates,
    settings: Profile,
) -> Ints:
    """(n,) for each draft, the draft kept in its place: one of those with similar questions in its image component."""
    texts = list(dict.fromkeys(question_of(draft.messages) for draft in drafts))
    index = {text: row for row, text in enumerate(texts)}
    vectors = text_vectors(texts, config.text_model, settings.compute)
    members: dict[int, list[int]] = {}
    for number, draft in enumerate(drafts):
        members.setdefault(int(components.keeper[distinct.row[draft.image_id]]), []).append(number)
    edges = [np.empty((2, 0), np.int64)]
    for numbers in members.values():
        if len(numbers) > 1:
            asked = np.array([index[question_of(drafts[number].messages)] for number in numbers])
            edges.append(np.array(numbers)[similar_pairs(vectors[asked], config.text_threshold)])
    order = [(rank[distinct.row[draft.image_id]], draft.sample["sample_id"], n) for n, draft in enumerate(drafts)]
    return keepers(len(drafts), np.concatenate(edges, axis=1), order)


def _write_components(
    out: Path, distinct: _DistinctImages, components: Components, remaining: set[str], config: Duplicates
) -> None:
    rows = []
    for row, image_id in enumerate(distinct.ids):
        other, similarity = components.evidence.get(row, (None, None))
        rows.append(
            {
                "image_id": image_id,
                "component": distinct.ids[components.keeper[row]],
                "kept": image_id in remaining,
                "other_image_id": None if other is None else distinct.ids[other],
                "kind": None if other is None else ("perceptual" if config.image_model is None else "embedding"),
                "similarity": similarity,
            }
        )
    write_table(out / "components.parquet", COMPONENT, rows)
