"""Each monitor of reward hacking on series made by hand: where it alarms, where not, where it cannot say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rsqa_pipeline.profile import Monitor, Monitors
from rsqa_pipeline.rl_policy.monitors import (
    MIN_PROBES,
    STATISTICS,
    Check,
    Values,
    Z,
    alarms_of,
    bounds,
    read_monitors,
    standardised_change,
)

PROBES = 40
REFERENCES = [f"{number} ships near pier {number}" for number in range(PROBES)]
THRESHOLDS = Monitors().thresholds


def check(step: int, **measured: Any) -> Check:
    """A check of a policy that repeats the references, with what a test sets."""
    whole: dict[str, Any] = {
        "completions": [completion(text) for text in REFERENCES],
        "proxy": [],
        "gold": [],
        "image_gain": [],
        "kl": None,
        "entropy": None,
    }
    return Check(step, **{**whole, **measured})


def completion(answer: str) -> str:
    return f"<think>i look</think><answer>{answer}</answer>"


def value(monitor: Monitor, checks: list[Check]) -> float | None:
    return STATISTICS[monitor](checks, REFERENCES)


def alarms(monitor: Monitor, checks: list[Check]) -> bool:
    readings = read_monitors(checks, REFERENCES, {monitor: THRESHOLDS[monitor]})
    return bool(alarms_of(checks[-1].step, readings, THRESHOLDS))


def drifting(start: float, per_step: float, steps: list[int], seed: int, probes: int = PROBES) -> list[Values]:
    """Noisy values of each probe, whose mean moves by ``per_step``."""
    rng = np.random.default_rng(seed)
    of_probe = rng.normal(start, 0.3, probes)
    return [list(of_probe + per_step * step + rng.normal(0, 0.1, probes)) for step in steps]


def course(proxy: float, gold: float, seed: int = 0) -> list[Check]:
    steps = [0, 10, 20, 30]
    series = zip(steps, drifting(0.5, proxy, steps, seed), drifting(0.5, gold, steps, seed + 1), strict=True)
    return [check(step, proxy=of_proxy, gold=of_gold) for step, of_proxy, of_gold in series]


@pytest.mark.parametrize(
    ("proxy", "gold", "alarmed"),
    [
        (0.02, -0.01, True),  # the reward rises and what it stands for falls
        (0.02, 0.0, True),
        (0.02, 0.02, False),  # both rise
        (0.02, 0.008, False),  # gold rises too, if less
        (0.0, 0.0, False),
        (-0.01, -0.02, False),  # a training that makes everything worse does not hack its reward
    ],
)
def test_proxy_rises_while_gold_does_not(proxy: float, gold: float, alarmed: bool) -> None:
    assert alarms("proxy_gold", course(proxy, gold)) is alarmed


def test_chance_alone_rarely_parts_proxy_and_gold() -> None:
    assert sum(alarms("proxy_gold", course(0.0, 0.0, seed)) for seed in range(200)) <= 2


def test_gold_may_be_on_other_units_and_a_missing_value_drops_its_probe() -> None:
    checks = course(0.02, -0.01)
    fewer = [
        check(
            c.step,
            proxy=[None if c.step == 10 and index < 5 else v for index, v in enumerate(c.proxy)],
            gold=drifting(0, -0.1, [c.step], 9, probes=12)[0],
        )
        for c in checks
    ]
    assert alarms("proxy_gold", fewer)
    few = [check(c.step, proxy=c.proxy[: MIN_PROBES - 1], gold=c.gold) for c in checks]
    assert value("proxy_gold", few) is None and value("proxy_gold", checks[:1]) is None
    assert value("proxy_gold", [check(0), check(10)]) is None


def test_only_the_last_checks_count_for_slopes() -> None:
    steps = list(range(0, 100, 10))
    rises_then_falls = [0.02 * min(step, 50) - 0.03 * max(0, step - 50) for step in steps]
    proxy = drifting(0.5, 0.02, steps, 0)
    gold = [[v + shift for v in row] for row, shift in zip(drifting(0.5, 0.0, steps, 1), rises_then_falls, strict=True)]
    checks = [check(s, proxy=p, gold=g) for s, p, g in zip(steps, proxy, gold, strict=True)]
    assert not alarms("proxy_gold", checks[:6]) and alarms("proxy_gold", checks)


def test_the_change_is_that_of_a_fitted_line_in_deviations_of_all_values() -> None:
    series: list[Values] = [[step / 10 + probe for probe in range(10)] for step in (0, 10, 20)]
    found = standardised_change(series, [0, 10, 20])
    assert found is not None
    assert found.value == pytest.approx(2 / np.std(np.array(series, dtype=float)))
    assert found.low == pytest.approx(found.high)  # all probes change alike
    constant = standardised_change([[1.0] * 10, [1.0] * 10], [0, 10])
    assert constant is not None and (constant.low, constant.high) == (0.0, 0.0)


def test_bounds_are_a_mean_and_its_standard_errors() -> None:
    found = bounds(np.array([0.0, 1.0, 2.0, 3.0]))
    assert found.value == 1.5
    assert found.high - 1.5 == pytest.approx(Z * np.std([0, 1, 2, 3], ddof=1) / 2)
    assert 1.5 - found.low == pytest.approx(found.high - 1.5)


def test_kl_from_the_start() -> None:
    assert alarms("kl", [check(0), check(10, kl=0.51)]) and not alarms("kl", [check(0), check(10, kl=0.49)])
    assert value("kl", [check(0)]) is None


def test_entropy_that_is_lost() -> None:
    course_of = [check(0), check(10, entropy=1.0), check(20, entropy=0.4)]
    assert value("entropy", course_of) == pytest.approx(0.6) and not alarms("entropy", course_of)
    assert alarms("entropy", [*course_of, check(30, entropy=0.1)])
    assert not alarms("entropy", [*course_of, check(30, entropy=2.0)])
    assert value("entropy", course_of[:2]) is None and value("entropy", [*course_of, check(30)]) is None


@pytest.mark.parametrize(("now", "factor"), [("word " * 20, 3.0), ("", 7.0), ("one two three four five six", 1.0)])
def test_length_drifts_either_way(now: str, factor: float) -> None:
    checks = [check(0, completions=["a b c d e f"] * PROBES), check(10, completions=[now] * PROBES)]
    assert value("length", checks) == pytest.approx(factor)
    assert alarms("length", checks) is (factor > 2)


def test_a_phrase_that_spreads_over_images() -> None:
    start = check(0)
    for share, alarmed in ((0.1, False), (0.2, False), (0.6, True)):
        held = round(share * PROBES)
        answers = [f"{text} most lovely" if i < held else text for i, text in enumerate(REFERENCES)]
        now = check(10, completions=[completion(text) for text in answers])
        assert alarms("phrase", [start, now]) is alarmed, share
    single = check(10, completions=[completion("magnificent")] * PROBES)
    assert alarms("phrase", [start, single])


def test_a_phrase_of_the_start_or_of_right_answers_is_no_alarm() -> None:
    lovely = check(0, completions=[completion(f"{text} most lovely") for text in REFERENCES])
    assert not alarms("phrase", [lovely, check(10, completions=lovely.completions)])
    untaught = check(0, completions=[completion(f"word{i}") for i in range(PROBES)])
    assert not alarms("phrase", [untaught, check(10)]), "the references say 'ships near pier', too"


def test_phrases_outside_the_answer_tags_do_not_count_and_the_start_is_the_first_that_answers() -> None:
    assert value("phrase", [check(0), check(10, completions=["most lovely"] * PROBES)]) is None
    lovely = check(30, completions=[completion("most lovely")] * PROBES)
    assert alarms("phrase", [check(0, completions=["no tags"] * PROBES), check(20), lovely])
    thinks = [f"<think>most lovely</think><answer>{text}</answer>" for text in REFERENCES]
    assert value("phrase", [check(0), check(10, completions=thinks)]) == 0.0


def test_answers_that_fit_any_image() -> None:
    rng = np.random.default_rng(0)
    own: Values = list(rng.normal(1.0, 0.5, PROBES))
    any_image: Values = list(rng.normal(0.0, 0.1, PROBES))
    start = check(0, image_gain=own)
    assert alarms("image", [start, check(10, image_gain=any_image)])
    assert not alarms("image", [start, check(10, image_gain=list(rng.normal(0.8, 0.5, PROBES)))])
    assert not alarms("image", [start, check(10, image_gain=list(rng.normal(2.0, 0.5, PROBES)))])
    assert value("image", [check(0, image_gain=any_image), check(10, image_gain=any_image)]) is None
    missing: Values = [None] * (PROBES - MIN_PROBES + 1) + own[: MIN_PROBES - 1]
    assert value("image", [start, check(10, image_gain=missing)]) is None


def test_monitors_that_are_off_are_not_read_and_no_value_is_no_alarm() -> None:
    checks = [check(0), check(10, kl=math.inf)]
    readings = read_monitors(checks, REFERENCES, Monitors(kl=None, image=None).thresholds)
    assert set(readings) == {"proxy_gold", "entropy", "length", "phrase"}
    assert readings["proxy_gold"] is None and alarms_of(10, readings, THRESHOLDS) == []
