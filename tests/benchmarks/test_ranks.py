"""Ranks of classification and retrieval: by hand, and the fast code against naive code."""

from __future__ import annotations

import numpy as np
import pytest

from rsqa_pipeline.benchmarks import retrieval
from rsqa_pipeline.benchmarks.classification import truth_ranks
from rsqa_pipeline.benchmarks.retrieval import TestSet, best_ranks, random_recall


def naive_rank(scores: list[float], right: list[bool]) -> int:
    """Sorts candidates best first, with wrong ones before right ones at equal scores, and finds the first right one."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], right[index]))
    return 1 + next(rank for rank, index in enumerate(order) if right[index])


def test_ranks_by_hand() -> None:
    similarities = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.3]], dtype=np.float32)
    assert truth_ranks(similarities, np.array([2, 1])).tolist() == [2, 2]  # a tie counts against the model
    relevant = np.array([[False, True, True], [True, True, False]])
    assert best_ranks(similarities, relevant).tolist() == [2, 2]


def test_a_collapsed_or_broken_model_is_never_right() -> None:
    same = np.zeros((2, 4), dtype=np.float32)
    assert truth_ranks(same, np.array([0, 3])).tolist() == [4, 4]
    nothing = np.full((2, 4), np.nan, dtype=np.float32)
    assert truth_ranks(nothing, np.array([0, 3])).tolist() == [4, 4]
    assert best_ranks(nothing, np.eye(2, 4, dtype=bool)).tolist() == [4, 4]


def test_ranks_agree_with_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    similarities = rng.integers(0, 12, size=(60, 25)).astype(np.float32)  # coarse: many ties
    relevant = rng.random((60, 25)) < 0.15
    relevant[np.arange(60), rng.integers(0, 25, 60)] = True
    naive = [naive_rank(s, r) for s, r in zip(similarities.tolist(), relevant.tolist(), strict=True)]
    assert best_ranks(similarities, relevant).tolist() == naive
    monkeypatch.setattr(retrieval, "_CHUNK_ROWS", 7)
    assert best_ranks(similarities, relevant).tolist() == naive
    truth = rng.integers(0, 25, 60)
    naive = [naive_rank(s, [c == t for c in range(25)]) for s, t in zip(similarities.tolist(), truth, strict=True)]
    assert truth_ranks(similarities, truth).tolist() == naive


def test_a_sentence_of_two_images_is_one_text_with_two_images() -> None:
    test = TestSet.from_captions([["a river", "water"], ["a beach", "water"]])
    assert test.texts == ["a river", "water", "a beach"]
    assert test.relevant.tolist() == [[True, True, False], [False, True, True]]
    with pytest.raises(ValueError, match="at least one caption"):
        TestSet.from_captions([["a river"], []])


def test_random_recall_by_hand_and_by_simulation() -> None:
    relevant = np.array([[True, False, False, False], [True, True, False, False], [True, True, True, False]])
    # 1 - C(3,2)/C(4,2), 1 - C(2,2)/C(4,2), certain
    assert random_recall(relevant, 2) == pytest.approx([0.5, 5 / 6, 1.0])
    assert random_recall(relevant, 9) == pytest.approx([1.0, 1.0, 1.0])
    rng = np.random.default_rng(0)
    wide = np.zeros((4000, 30), dtype=bool)
    wide[:, :3] = True
    ranks = best_ranks(rng.random((4000, 30)).astype(np.float32), wide)
    assert float((ranks <= 5).mean()) == pytest.approx(float(random_recall(wide[:1], 5)[0]), abs=0.03)
