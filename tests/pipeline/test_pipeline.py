"""The whole pipeline on a small profile: one Dagster run, killed runs, DVC and MLflow records, lineage, retraining."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import mlflow
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from pandas.testing import assert_frame_equal

from rsqa_pipeline.data_quality.checks import ADVISORY
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset_names import downstream
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import Project, checkout, smoke_settings

ASSETS = assets_of(Profile.model_validate(smoke_settings()))
pytestmark = pytest.mark.pipeline


def folder(project: Project, name: str) -> Path:
    return project.root / ASSETS[name].folder(project.profile)


def test_every_asset_is_materialized_with_one_version_everywhere(project: Project) -> None:
    locked = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    os.environ["DAGSTER_HOME"] = str(project.root / ".rsqa/smoke/dagster")
    with dg.DagsterInstance.get() as instance:
        for name in ASSETS:
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None and event.asset_materialization is not None, name
            version = (event.asset_materialization.tags or {})["dagster/data_version"]
            assert version == folder_version(folder(project, name)) == locked[name]["outs"][0]["md5"], name
    assert project.call("dvc", "status", "-q", check=False).returncode == 0


def test_checks_passed_and_rows_add_up(project: Project) -> None:
    checked = 0
    for name in ASSETS:
        manifest = json.loads((project.root / f".rsqa/smoke/manifests/{name}.jsonl").read_text().splitlines()[-1])
        assert manifest["checks"] and all(
            check["passed"] for check in manifest["checks"] if check["name"] not in ADVISORY
        ), name
        metrics = manifest["metrics"]
        if "input_rows" in metrics:
            checked += 1
            assert metrics["kept_rows"] + metrics["quarantined_rows"] == metrics["input_rows"], name
    assert checked >= 8


def test_mlflow_holds_runs_data_digests_and_models(project: Project) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{project.root}/.rsqa/smoke/mlflow.db")
    experiment = client.get_experiment_by_name("rsqa-smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("rsqa.role") == "parent"]
    nested = {run.data.tags["dagster.asset"]: run for run in runs if "dagster.asset" in run.data.tags}
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert {"score_model", "clip_all", "vlm_score_model_p30s60", "rl_policy", "vlm_benchmark"} <= set(nested)
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in nested.values())
    digests = {i.dataset.name: i.dataset.digest for i in nested["score_model"].inputs.dataset_inputs}
    assert digests["caption_score_model"] == folder_version(folder(project, "caption_score_model"))
    assert client.get_model_version_by_alias("score_model", "challenger").tags["dvc.md5"] == folder_version(
        folder(project, "score_model")
    )


def test_second_run_computes_nothing(project: Project) -> None:
    assert "0 assets computed" in project.call("rsqa", "run").stdout


def test_report_is_one_file_with_every_asset(project: Project) -> None:
    page = (folder(project, "curation_report") / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert all(name in page for name in ASSETS if name not in ("curation_report", "lineage_manifest"))


def test_trace_names_every_upstream_version_and_finds_a_flipped_byte(project: Project) -> None:
    traced = project.call("rsqa", "trace", "models:/score_model@challenger", "--json")
    found = json.loads(traced.stdout)
    text = json.dumps(found["trace"])
    upstream = {name for name in ASSETS if "score_model" in downstream(ASSETS, name)} | {"score_model"}
    for name in upstream:
        assert folder_version(folder(project, name)) in text, name
    assert not found["mismatches"]
    table = folder(project, "caption_preferences") / "pairs.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    try:
        broken = project.call("rsqa", "trace", "models:/score_model@challenger", check=False)
        assert broken.returncode == 3 and "caption_preferences" in broken.stdout and "differs" in broken.stdout
    finally:
        table.write_bytes(whole)


def test_killed_runs_go_on_and_end_with_the_same_tables(project: Project, tmp_path: Path) -> None:
    """Two kills at random moments, then a run to the end; against the undisturbed project, table by table."""
    killed = checkout(tmp_path / "project")
    moments = random.Random(5)
    for _ in range(2):
        process = subprocess.Popen(
            ["rsqa", "run"],
            cwd=killed.root,
            env=killed.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(15, 45))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = {name for name in ASSETS if (killed.root / f".rsqa/smoke/manifests/{name}.jsonl").is_file()}
    last = killed.call("rsqa", "run").stdout
    computed = int(re.search(r"(\d+) assets computed", last).group(1))  # type: ignore[union-attr]
    assert computed == len(ASSETS) - len(finished), "an asset that was finished was made again, or one was missed"
    for name in ASSETS:
        for table in sorted(folder(project, name).glob("*.parquet")):
            assert_frame_equal(pd.read_parquet(table), pd.read_parquet(folder(killed, name) / table.name))
    for path in (
        "dvc.lock",
        *sorted(str(p.relative_to(project.root)) for p in project.root.glob("metrics/smoke/*.json")),
    ):
        assert (killed.root / path).read_text() == (project.root / path).read_text(), path


def test_dvc_repro_runs_the_stale_stage_alone(project: Project, tmp_path: Path) -> None:
    clone = Project(tmp_path / "project")
    subprocess.run(["git", "clone", "-q", str(project.root), str(clone.root)], check=True)
    clone.call("dvc", "pull", "-q")
    settings = clone.root / "configs/profiles/smoke.yaml"
    settings.write_text(settings.read_text().replace("gallery_size: 2", "gallery_size: 1"))
    output = clone.call("dvc", "repro", "curation_report").stdout
    assert re.findall(r"Running stage '(\w+)'", output) == ["curation_report"]


def test_a_second_clone_has_every_registered_model_with_its_card_after_dvc_pull(
    project: Project, tmp_path: Path
) -> None:
    clone = Project(tmp_path / "project")
    subprocess.run(["git", "clone", "-q", str(project.root), str(clone.root)], check=True)
    clone.call("dvc", "pull", "-q")
    clone.call("rsqa", "models")
    names = {}
    for root in (project.root, clone.root):
        client = mlflow.MlflowClient(f"sqlite:///{root}/.rsqa/smoke/mlflow.db")
        names[root] = {model.name: set(model.aliases) for model in client.search_registered_models()}
    assert names[clone.root] == names[project.root] and {"score_model", "clip_all", "rl_policy"} <= set(
        names[clone.root]
    )
    for name in names[clone.root]:
        made = client.get_model_version_by_alias(name, "challenger")
        assert made.tags["dvc.md5"] == folder_version(folder(project, name))
        held = mlflow.artifacts.download_artifacts(client.get_model_version_download_uri(name, made.version))
        assert {"MLmodel", "README.md", "data_manifest.json"} <= {file.name for file in Path(held).iterdir()}, name
        if name == "vlm_all":
            results = ModelCard.load(Path(held) / "README.md").data.eval_results
            assert results and any(result.metric_args["low"] is not None for result in results)
    assert "no findings" in clone.call("rsqa", "audit").stdout
