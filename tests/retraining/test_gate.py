"""The gate of a retraining: passed only by a better model, with the interval and every family looked at."""

from __future__ import annotations

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.retraining.gate import Gate, decide
from rsqa_pipeline.score_model.evaluation.probes import ProbeResult
from tests.score_model.examples import pair

SOUND = [ProbeResult("number", 0.9, 0.8, 0.95, 50)]
PAIRS = [pair(str(i), "a", "b", family="caption" if i < 80 else "open_ended") for i in range(100)]
Scored = list[tuple[float | None, float | None]]


def scores(verdicts: list[bool]) -> Scored:
    return [(1.0, 0.0) if verdict else (0.0, 1.0) for verdict in verdicts]


def judged(new: Scored, old: Scored, probes: list[ProbeResult] = SOUND) -> Gate:
    return decide(PAIRS, new, old, probes, 300, seed=0)


def test_a_better_model_passes() -> None:
    gate = judged(scores([True] * 90 + [False] * 10), scores([True] * 70 + [False] * 30))
    assert gate.verdict == "passed" and gate.difference is not None
    assert gate.difference.value == pytest.approx(0.2) and gate.difference.low > 0
    assert gate.families["caption"].value == pytest.approx(10 / 80)
    assert "+0.2000" in gate.reasons[0]


def test_an_equal_model_is_refused_which_promotion_would_accept() -> None:
    gate = judged(scores([True] * 90 + [False] * 10), scores([True] * 90 + [False] * 10))
    assert gate.verdict == "refused" and "the interval is not above 0" in gate.reasons[0]


def test_a_gain_that_chance_explains_is_refused() -> None:
    gate = judged(scores([True] * 71 + [False] * 29), scores([True] * 70 + [False] * 30))
    assert gate.verdict == "refused" and gate.difference is not None
    assert gate.difference.value == pytest.approx(0.01) and gate.difference.low <= 0


def test_a_loss_in_one_family_is_refused_despite_an_overall_gain() -> None:
    gate = judged(scores([True] * 80 + [False] * 20), scores([False] * 40 + [True] * 40 + [True] * 20))
    assert gate.difference is not None and gate.difference.low > 0
    assert gate.verdict == "refused" and gate.reasons == [
        "family open_ended: accuracy -1.0000 [-1.0000, -1.0000] on 20 pairs, the interval lies below 0"
    ]


def test_a_failed_probe_is_refused() -> None:
    gate = judged(scores([True] * 100), scores([False] * 100), [ProbeResult("colour", 0.5, 0.4, 0.6, 80)])
    assert gate.verdict == "refused" and gate.reasons[0].startswith("probe colour")


def test_pairs_of_one_image_are_drawn_together() -> None:
    """Ten copies of ten images: the interval is that of ten images, not of a hundred pairs."""
    pairs = [pair(str(i // 10), "a", f"b{i}") for i in range(100)]
    new, old = scores([True] * 70 + [False] * 30), scores([True] * 30 + [False] * 70)
    together = decide(pairs, new, old, SOUND, 500, seed=0)
    apart = judged(new, old)
    assert together.difference is not None and apart.difference is not None
    assert together.difference.high - together.difference.low > 2 * (apart.difference.high - apart.difference.low)


def test_unscored_pairs_are_left_out_and_none_at_all_is_an_error() -> None:
    new: Scored = [(None, 0.0)] * 50 + [(1.0, 0.0)] * 50
    gate = judged(new, scores([False] * 100))
    assert gate.difference is not None and gate.difference.n == 50
    with pytest.raises(DataError, match="no held-out pair in common"):
        judged([(None, 0.0)] * 100, scores([True] * 100))
