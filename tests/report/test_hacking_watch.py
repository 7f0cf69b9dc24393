"""The report's blocks on a watched policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rsqa_pipeline.report.blocks import Paragraph, Plots, Table
from rsqa_pipeline.report.hacking_watch import watch_blocks

POLICIES = ("rl_policy", "rl_policy_rules_only")
STOPPED: dict[str, Any] = {
    "thresholds": {"kl": 0.5, "phrase": 0.1},
    "stop_on": ["phrase"],
    "checks": [
        {"step": 0, "proxy": 0.4, "gold": 0.5, "readings": {"kl": None, "phrase": None}},
        {"step": 10, "proxy": 0.5, "gold": 0.4, "readings": {"kl": 0.1, "phrase": 0.31}},
    ],
    "alarms": [{"step": 10, "monitor": "phrase", "value": 0.31, "threshold": 0.1}],
    "stopped_at": 10,
    "kept_step": 0,
}


def inputs(folder: Path, watched: dict[str, Any]) -> dict[str, Path]:
    for name in POLICIES:
        (folder / name).mkdir()
    for name, watch in watched.items():
        (folder / name / "watch.json").write_text(json.dumps(watch))
    return {name: folder / name for name in POLICIES}


def test_unwatched_policies_have_no_block(tmp_path: Path) -> None:
    assert watch_blocks(inputs(tmp_path, {}), POLICIES) == []


def test_a_stopped_policy_is_said_drawn_and_listed(tmp_path: Path) -> None:
    quiet = {**STOPPED, "alarms": [], "stopped_at": None, "kept_step": None}
    blocks = watch_blocks(inputs(tmp_path, {"rl_policy": STOPPED, "rl_policy_rules_only": quiet}), POLICIES)
    said, drawn, listed = blocks
    assert isinstance(said, Paragraph) and isinstance(drawn, Plots) and isinstance(listed, Table)
    assert "stopped training at step 10 (phrase)" in said.text and "that of step 0, the last checkpoint" in said.text
    assert len(drawn.plots) == 2
    cells = {cell.key: cell.text for row in listed.rows for cell in row if cell.key}
    assert cells["watch/rl_policy/phrase/largest"] == "0.310" and cells["watch/rl_policy/kl/largest"] == "0.100"
    assert cells["watch/rl_policy/phrase/first"] == "10" and cells["watch/rl_policy/kl/alarms"] == "0"
    assert [row[-1].text for row in listed.rows] == ["none", "10", "none", "none"]
