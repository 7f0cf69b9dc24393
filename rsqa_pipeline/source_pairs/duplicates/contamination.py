"""Samples to train on that show, or say, what a benchmark item does: the ledger of decontamination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.source_pairs.duplicates.benchmark_items import BenchmarkItem
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Rows
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from rsqa_pipeline.source_pairs.duplicates.read_images import read_images, threshold_of
from rsqa_pipeline.source_pairs.duplicates.shared_text import shared_texts
from rsqa_pipeline.source_pairs.sample_tables import Draft


def find_contamination(
    drafts: Sequence[Draft],
    row_of: Mapping[str, int],
    images: ImageSet,
    items: Sequence[BenchmarkItem],
    wanted: Duplicates,
    settings: Profile,
) -> list[dict[str, Any]]:
    """Rows of `records.CONTAMINATION`, in the order of drafts and items; only preference and corpus samples are trained
    on, so only they are looked at.

    Args:
        row_of: image_id -> its row in ``images``.
    """
    trained = [draft for draft in drafts if draft.split in ("preference", "corpus")]
    shown = _shown_items(trained, row_of, images, items, wanted, settings)
    said = _said_items(trained, items)
    ledger = []
    for number, draft in enumerate(trained):
        found = {**said.get(number, {}), **shown.get(row_of[draft.image_id], {})}  # an image tells more than a text
        for item, (kind, similarity) in sorted(found.items()):
            ledger.append(
                {
                    "sample_id": draft.sample["sample_id"],
                    "benchmark": items[item].benchmark,
                    "item_id": items[item].item_id,
                    "kind": kind,
                    "similarity": similarity,
                }
            )
    return ledger


_Found = dict[int, dict[int, tuple[str, float]]]
"""Image row, or sample number -> item number -> (kind of evidence, similarity)."""


def _shown_items(
    trained: Sequence[Draft],
    row_of: Mapping[str, int],
    images: ImageSet,
    items: Sequence[BenchmarkItem],
    wanted: Duplicates,
    settings: Profile,
) -> _Found:
    numbers: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        numbers.setdefault(item.image_id, []).append(number)
    shown = list(numbers)
    references = [items[numbers[image_id][0]].image for image_id in shown]
    tests = read_images(references, wanted, settings.source_pairs.max_image_pixels, settings)
    rows = np.unique(np.array([row_of[draft.image_id] for draft in trained], np.int64))
    found: _Found = {}
    for (row, test), similarity in _near(images, rows, tests, threshold_of(wanted)).items():
        entries = dict.fromkeys(numbers[shown[test]], ("near_image", similarity))
        found.setdefault(row, {}).update(entries)
    for draft in trained:
        if draft.image_id in numbers:
            entries = dict.fromkeys(numbers[draft.image_id], ("same_image", 1.0))
            found.setdefault(row_of[draft.image_id], {}).update(entries)
    return found


def _near(images: ImageSet, left: Rows, tests: ImageSet, threshold: float) -> dict[tuple[int, int], float]:
    """(row, test image) -> similarity. Either side may be a crop of the other, so each searches for the other; test
    images with very many copies search again among the images left."""
    found: dict[tuple[int, int], float] = {}
    all_tests = searching = np.arange(len(tests.vectors))
    while len(left) and len(searching):
        forth = near_pairs(images, left, tests, all_tests, threshold)
        back = near_pairs(tests, searching, images, left, threshold)
        pairs = [(forth.first, forth.second, forth.similarity), (back.second, back.first, back.similarity)]
        for rows, test_rows, similarities in pairs:
            for row, test, value in zip(rows.tolist(), test_rows.tolist(), similarities.tolist(), strict=True):
                found[row, test] = max(value, found.get((row, test), -1.0))
        hit = np.unique(np.concatenate([forth.first, back.second]))
        if not len(hit):
            break
        left, searching = np.setdiff1d(left, hit), back.crowded
    return found


def _said_items(trained: Sequence[Draft], items: Sequence[BenchmarkItem]) -> _Found:
    texts = [" ".join(message["content"] for message in draft.messages) for draft in trained]
    owners = [number for number, item in enumerate(items) for _ in item.texts]
    found: _Found = {}
    for shared in shared_texts(texts, [text for item in items for text in item.texts]):
        entries = found.setdefault(shared.text, {})
        before = entries.get(owners[shared.test_text], ("", 0.0))[1]
        entries[owners[shared.test_text]] = ("shared_text", max(before, shared.share))
    return found
