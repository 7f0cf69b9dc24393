"""Runs, digests and the registry in a real MLflow store."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking, registered_version
from rsqa_pipeline.versions import folder_version


def _tracking(root: str) -> MlflowTracking:
    import os

    os.chdir(root)
    return MlflowTracking(Profile.model_construct(name="unit"))


def _parent(root: str) -> str:
    return _tracking(root).parent_run("run-1")


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracking:
    monkeypatch.chdir(tmp_path)
    return _tracking(str(tmp_path))


def test_processes_share_one_parent_run(tracking: MlflowTracking, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parents = set(pool.map(_parent, [str(tmp_path)] * 4))
    assert len(parents) == 1 and parents == {tracking.parent_run("run-1")}
    assert tracking.parent_run("run-2") not in parents


def test_nested_run_with_curve_digest_and_registered_model(tracking: MlflowTracking, tmp_path: Path) -> None:
    upstream, model = tmp_path / "pairs", tmp_path / "model"
    upstream.mkdir()
    model.mkdir()
    (upstream / "pairs.parquet").write_bytes(b"data")
    save_file({"w": torch.ones(2)}, model / "model.safetensors")
    with tracking.asset_run("score_model", "run-1", {"caption_preferences": upstream}) as logger:
        logger.log_params({"seed": 7})
        for step in range(3):
            logger.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        logger.log_model("score_model", model)
        logger.record_output("0123456789abcdef0123456789abcdef.dir", {"accuracy": 0.9})
    run = tracking.client.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "7"}
    assert run.data.tags["mlflow.parentRunId"] == tracking.parent_run("run-1")
    assert [m.value for m in tracking.client.get_metric_history(logger.run_id, "loss")] == [1.0, 0.5, 1.0 / 3]
    assert run.inputs.dataset_inputs[0].dataset.digest == folder_version(upstream)
    found = registered_version(tracking, "models:/score_model@challenger")
    assert found["asset"] == "score_model" and found["data_version"] == "0123456789abcdef0123456789abcdef.dir"
    assert registered_version(tracking, "models:/score_model/1") == found


def test_a_failed_asset_leaves_a_failed_run(tracking: MlflowTracking) -> None:
    with (
        pytest.raises(RuntimeError, match="no memory"),
        tracking.asset_run("clip_all", "run-1", {}) as logger,
    ):
        raise RuntimeError("no memory")
    assert tracking.client.get_run(logger.run_id).info.status == "FAILED"


def test_an_unknown_alias_raises(tracking: MlflowTracking) -> None:
    with pytest.raises(DataError, match=r"has no models:/score_model@champion, .*rsqa run score_model"):
        registered_version(tracking, "models:/score_model@champion")
