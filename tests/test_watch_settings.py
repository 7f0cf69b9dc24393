"""The settings of the watch on reward hacking: what cannot work is a fault, and what a watched policy reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.stages import assets_of
from tests.profile_files import demo_settings, faults, load


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return demo_settings(tmp_path)


@pytest.mark.parametrize(
    ("watch", "fault"),
    [
        ({}, "rl_policy.watch.every: is missing"),
        ({"every": 5, "gold": "score_model"}, "rl_policy.watch: gold_model is needed with gold: score_model"),
        (
            {"every": 5, "gold": "score_model", "gold_model": "/nowhere"},
            "rl_policy.watch.gold_model: no such file or folder: /nowhere",
        ),
        (
            {"every": 5, "gold": "truth", "stop_on": ["kl"], "monitors": {"kl": None}},
            "rl_policy.watch: stop_on: kl is turned off in monitors; running: proxy_gold, entropy",
        ),
        ({"every": 5, "gold": "truth", "stop_on": ["speed"]}, "rl_policy.watch.stop_on.0: Input should be"),
        ({"every": 5, "gold": "truth", "monitors": {"length": 0.5}}, "rl_policy.watch.monitors.length: Input should"),
        ({"every": 0, "gold": "truth"}, "rl_policy.watch.every: Input should be greater than or equal to 1"),
    ],
)
def test_a_watch_that_cannot_work_is_a_fault(
    settings: dict[str, Any], tmp_path: Path, watch: dict[str, Any], fault: str
) -> None:
    settings["rl_policy"]["watch"] = watch
    assert any(found.startswith(fault) for found in faults(settings, tmp_path)), faults(settings, tmp_path)


def test_the_watch_on_kl_needs_a_kl_term(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["rl_policy"] |= {"kl": 0.0, "watch": {"every": 5, "gold": "truth"}}
    (fault,) = faults(settings, tmp_path)
    assert fault.startswith("rl_policy: watch.monitors.kl: without a KL term none is measured")
    settings["rl_policy"]["watch"]["monitors"] = {"kl": None}
    load(settings, tmp_path)


def test_what_a_watched_policy_reads(settings: dict[str, Any], tmp_path: Path) -> None:
    unwatched = assets_of(load(settings, tmp_path))["rl_policy"]
    for watch, inputs, sources in (
        ({"gold": "truth"}, (), ()),
        ({"gold": "benchmark"}, ("benchmark_sets",), ()),
        ({"gold": "score_model", "gold_model": str(tmp_path)}, (), (str(tmp_path),)),
    ):
        settings["rl_policy"]["watch"] = {"every": 5, **watch}
        watched = assets_of(load(settings, tmp_path))["rl_policy"]
        assert (watched.inputs, watched.sources) == ((*unwatched.inputs, *inputs), sources)
