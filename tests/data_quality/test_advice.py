"""Advisory checks: groups that vanish from a subset, and score drift."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.data_quality.checks import ADVISORY, check_names, run_checks
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.records import SUBSET
from rsqa_pipeline.stages import assets_of


@pytest.fixture(scope="module")
def profile(project_root: Path):
    return load_profile(str(project_root / "configs/profiles/demo.yaml"))


def test_a_vanished_source_is_named_and_does_not_block(tmp_path: Path, profile) -> None:
    asset = assets_of(profile)["subset_random_p30s60"]
    assert "no_group_vanishes" in check_names(asset) and "no_group_vanishes" in ADVISORY
    row = {"kind": "caption", "by": "source", "value": "vague", "samples": 57, "vanished": True}
    pq.write_table(SUBSET.empty_table(), tmp_path / "ids.parquet")
    (tmp_path / "shares.json").write_text(json.dumps([row, {**row, "by": "words"}]))
    found = {check.name: check for check in run_checks(asset, tmp_path, {}, profile)}["no_group_vanishes"]
    assert not found.passed and found.detail == "nothing is kept of source 'vague' (57 captions)"
    (tmp_path / "shares.json").write_text(json.dumps([{**row, "vanished": False}]))
    found = {check.name: check for check in run_checks(asset, tmp_path, {}, profile)}["no_group_vanishes"]
    assert found.passed


@pytest.mark.parametrize(
    ("metrics", "passed"),
    [
        ({"psi": 0.25, "top_30_jaccard": 0.5}, True),
        ({"psi": 0.26, "top_30_jaccard": 0.9}, False),
        ({"psi": 0.1, "top_30_jaccard": 0.49}, False),
    ],
)
def test_drift_is_compared_with_the_profile_limits(metrics, passed: bool, tmp_path: Path, profile) -> None:
    checks = {check.name: check for check in run_checks(assets_of(profile)["score_drift"], tmp_path, metrics, profile)}
    assert checks["score_drift_small"].passed is passed and "score_drift_small" in ADVISORY
    assert "max_psi" in checks["score_drift_small"].detail
