"""Finds the training samples that share an image or a text with a benchmark item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.source_pairs.duplicates.benchmark_items import BenchmarkItem
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Ints
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from rsqa_pipeline.source_pairs.duplicates.read_images import read_images, threshold_of
from rsqa_pipeline.source_pairs.duplicates.shared_text import shared_texts
from rsqa_pipeline.source_pairs.sample_tables import Draft


def find_contamination(
    drafts: Sequence[Draft],
    row_of: Mapping[str, int],
    images: ImageSet,
    items: Sequence[BenchmarkItem],
    config: Duplicates,
    settings: Profile,
) -> list[dict[str, Any]]:
    """Returns rows of `records.CONTAMINATION`, in the order of drafts and items. Only preference and corpus samples are
    checked, because only they are trained on.

    Args:
        row_of: image_id -> its row in ``images``.
    """
    trained = [draft for draft in drafts if draft.split in ("preference", "corpus")]
    by_image = _items_by_image(trained, row_of, images, items, config, settings)
    by_text = _items_by_text(trained, items)
    ledger = []
    for number, draft in enumerate(trained):
        found = {
            **by_text.get(number, {}),
            **by_image.get(row_of[draft.image_id], {}),
        }  # image evidence replaces text evidence
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


_Evidence = dict[int, dict[int, tuple[str, float]]]
"""Image row or sample number -> item number -> (kind of evidence, similarity)."""


def _items_by_image(
    trained: Sequence[Draft],
    row_of: Mapping[str, int],
    images: ImageSet,
    items: Sequence[BenchmarkItem],
    config: Duplicates,
    settings: Profile,
) -> _Evidence:
    numbers: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        numbers.setdefault(item.image_id, []).append(number)
    image_ids = list(numbers)
    references = [items[numbers[image_id][0]].image for image_id in image_ids]
    tests = read_images(references, config, settings.source_pairs.max_image_pixels, settings)
    rows = np.unique(np.array([row_of[draft.image_id] for draft in trained], np.int64))
    found: _Evidence = {}
    for (row, test), similarity in _near_test_images(images, rows, tests, threshold_of(config)).items():
        entries = dict.fromkeys(numbers[image_ids[test]], ("near_image", similarity))
        found.setdefault(row, {}).update(entries)
    for draft in trained:
        if draft.image_id in numbers:
            entries = dict.fromkeys(numbers[draft.image_id], ("same_image", 1.0))
            found.setdefault(row_of[draft.image_id], {}).update(entries)
    return found


def _near_test_images(
    images: ImageSet, remaining: Ints, tests: ImageSet, threshold: float
) -> dict[tuple[int, int], float]:
    """Returns (row, test image) -> similarity. Either image may be a crop of the other, so the search runs both ways.
    Test images with very many copies are searched again among the images not yet matched."""
    found: dict[tuple[int, int], float] = {}
    all_tests = searching = np.arange(len(tests.vectors))
    while len(remaining) and len(searching):
        forward = near_pairs(images, remaining, tests, all_tests, threshold)
        backward = near_pairs(tests, searching, images, remaining, threshold)
        pairs = [
            (forward.first, forward.second, forward.similarity),
            (backward.second, backward.first, backward.similarity),
        ]
        for rows, test_rows, similarities in pairs:
            for row, test, value in zip(rows.tolist(), test_rows.tolist(), similarities.tolist(), strict=True):
                found[row, test] = max(value, found.get((row, test), -1.0))
        hit = np.unique(np.concatenate([forward.first, backward.second]))
        if not len(hit):
            break
        remaining, searching = np.setdiff1d(remaining, hit), backward.crowded
    return found


def _items_by_text(trained: Sequence[Draft], items: Sequence[BenchmarkItem]) -> _Evidence:
    texts = [" ".join(message["content"] for message in draft.messages) for draft in trained]
    owners = [number for number, item in enumerate(items) for _ in item.texts]
    found: _Evidence = {}
    for shared in shared_texts(texts, [text for item in items for text in item.texts]):
        entries = found.setdefault(shared.text, {})
        before = entries.get(owners[shared.test_text], ("", 0.0))[1]
        entries[owners[shared.test_text]] = ("shared_text", max(before, shared.share))
    return found
