"""Takes benchmark items, then near-duplicates out of a source's samples; every sample taken out is quarantined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.records import COMPONENT, CONTAMINATION, Metrics, write_table
from rsqa_pipeline.source_pairs.clean import Quarantine
from rsqa_pipeline.source_pairs.duplicates.benchmark_items import read_items
from rsqa_pipeline.source_pairs.duplicates.components import Groups, group, keepers
from rsqa_pipeline.source_pairs.duplicates.contamination import find_contamination
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Rows
from rsqa_pipeline.source_pairs.duplicates.questions import alike, question_of, text_vectors
from rsqa_pipeline.source_pairs.duplicates.read_images import read_images, threshold_of
from rsqa_pipeline.source_pairs.sample_tables import Draft

_STRENGTH = {"preference": 0, "corpus": 0, "validation": 1, "test": 2}


def remove(
    drafts: Sequence[Draft],
    settings: Profile,
    benchmark_sets: Path,
    quarantine: Quarantine,
    out: Path,
    by_question: bool,
) -> tuple[list[Draft], Metrics]:
    """The drafts left, in order, and what was found.

    Writes components.parquet and decontamination.parquet into ``out``. Samples to train on that show, or say, what a
    benchmark item does go to ``quarantine`` as ``in_benchmark``. Of the images left, each component of near-duplicates
    keeps one, by `_rank`; the others' samples go there as ``near_duplicate``.

    Args:
        benchmark_sets: folder of that asset.
        by_question: samples on near-duplicate images, or on one image, are near-duplicates only if their questions are
            alike, too; of those with alike questions one is kept.

    Raises:
        DataError: a further benchmark file cannot be used at all. ModelError: a model cannot be loaded.
    """
    wanted = settings.source_pairs.duplicates
    assert wanted is not None  # the caller's choice
    max_pixels = settings.source_pairs.max_image_pixels
    unreadable = Quarantine("further benchmarks")
    items = read_items(benchmark_sets, wanted.benchmarks, max_pixels, unreadable)
    own = _Images.of(drafts)
    images = read_images(own.references, wanted, max_pixels, settings)
    ledger = find_contamination(drafts, own.row, images, items, wanted, settings)
    write_table(out / "decontamination.parquet", CONTAMINATION, ledger)
    clean = _without_benchmark(drafts, ledger, quarantine)
    rows = np.unique(np.array([own.row[draft.image_id] for draft in clean], np.int64))
    rank = _rank(clean, own, images)
    groups = group(images, rows, rank, threshold_of(wanted))
    keeper = _sample_keeper(clean, own, groups, rank, wanted, settings) if by_question else None
    left = _without_duplicates(clean, own, groups, keeper, quarantine)
    _write_components(out, own, groups, {draft.image_id for draft in left}, wanted)
    return left, {
        "near_duplicate_components": float(len(set(groups.keeper[list(groups.evidence)].tolist()))),
        "unreadable_benchmark_rows": float(len(unreadable.rows)),
    }


@dataclass(frozen=True)
class _Images:
    """The distinct images of the drafts."""

    ids: list[str]
    references: list[str]
    row: dict[str, int]

    @classmethod
    def of(cls, drafts: Sequence[Draft]) -> _Images:
        first = {draft.image_id: draft.image for draft in reversed(drafts)}
        ids = sorted(first)
        return cls(ids, [first[image_id] for image_id in ids], {image_id: row for row, image_id in enumerate(ids)})


def _rank(drafts: Sequence[Draft], own: _Images, images: ImageSet) -> list[tuple[int, int, str]]:
    """What decides which image a component keeps, the least: test before validation before training images, so that
    nothing trained on is alike; then the one with most pixels; then the least id."""
    strength = dict.fromkeys(own.ids, 0)
    for draft in drafts:
        strength[draft.image_id] = max(strength[draft.image_id], _STRENGTH[draft.split])
    return [
        (-strength[image_id], -int(pixels), image_id)
        for image_id, pixels in zip(own.ids, images.pixel_counts, strict=True)
    ]


def _without_benchmark(
    drafts: Sequence[Draft], ledger: Sequence[dict[str, Any]], quarantine: Quarantine
) -> list[Draft]:
    found = {entry["sample_id"]: entry for entry in reversed(ledger)}
    left = []
    for draft in drafts:
        entry = found.get(draft.sample["sample_id"])
        if entry is None:
            left.append(draft)
            continue
        what = f"{entry['kind']} ({entry['similarity']:.3f}) as {entry['item_id']} of {entry['benchmark']}"
        quarantine.add(entry["sample_id"], "in_benchmark", f"{draft.key}: {what}")
    return left


def _without_duplicates(
    drafts: Sequence[Draft],
    own: _Images,
    groups: Groups,
    keeper: Rows | None,
    quarantine: Quarantine,
) -> list[Draft]:
    """
    Args:
        keeper: (n,) the draft that stands for each; None where whole images go.
    """
    left = []
    for number, draft in enumerate(drafts):
        image = own.row[draft.image_id]
        kept = groups.keeper[image] if keeper is None else own.row[drafts[keeper[number]].image_id]
        if (kept == image) if keeper is None else (keeper[number] == number):
            left.append(draft)
            continue
        detail = f"{draft.key}: kept is image {own.ids[kept]}"
        if image in groups.evidence:
            other, similarity = groups.evidence[image]
            detail += f"; image {draft.image_id} is most like {own.ids[other]} ({similarity:.3f})"
        if keeper is not None:
            detail += f"; its question is like that of sample {drafts[keeper[number]].sample['sample_id']}"
        quarantine.add(draft.sample["sample_id"], "near_duplicate", detail)
    return left


def _sample_keeper(
    drafts: Sequence[Draft], own: _Images, groups: Groups, rank: Sequence[Any], wanted: Duplicates, settings: Profile
) -> Rows:
    """(n,) which draft stands for each: in a component of images, one of those with alike questions."""
    texts = list(dict.fromkeys(question_of(draft.messages) for draft in drafts))
    place = {text: row for row, text in enumerate(texts)}
    vectors = text_vectors(texts, wanted.text_model, settings.compute)
    members: dict[int, list[int]] = {}
    for number, draft in enumerate(drafts):
        members.setdefault(int(groups.keeper[own.row[draft.image_id]]), []).append(number)
    edges = [np.empty((2, 0), np.int64)]
    for numbers in members.values():
        if len(numbers) > 1:
            asked = np.array([place[question_of(drafts[number].messages)] for number in numbers])
            edges.append(np.array(numbers)[alike(vectors[asked], wanted.text_threshold)])
    order = [(rank[own.row[draft.image_id]], draft.sample["sample_id"], n) for n, draft in enumerate(drafts)]
    return keepers(len(drafts), np.concatenate(edges, axis=1), order)


def _write_components(out: Path, own: _Images, groups: Groups, left: set[str], wanted: Duplicates) -> None:
    rows = []
    for row, image_id in enumerate(own.ids):
        other, similarity = groups.evidence.get(row, (None, None))
        rows.append(
            {
                "image_id": image_id,
                "component": own.ids[groups.keeper[row]],
                "kept": image_id in left,
                "other_image_id": None if other is None else own.ids[other],
                "kind": None if other is None else ("perceptual" if wanted.image_model is None else "embedding"),
                "similarity": similarity,
            }
        )
    write_table(out / "components.parquet", COMPONENT, rows)
