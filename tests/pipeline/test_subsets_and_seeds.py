"""More subsets and more seeds are lines of the profile: the whole pipeline runs on them, no line of code changed."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from rsqa_pipeline.stages import assets_of
from tests.pipeline.project import Project, checkout, smoke_settings

pytestmark = pytest.mark.pipeline

MORE = {
    "score_model_p10s60": {"selector": "score_model", "caption_fraction": 0.1, "instruction_fraction": 0.6},
    "score_model_p20s60": {"selector": "score_model", "caption_fraction": 0.2, "instruction_fraction": 0.6},
    "score_model_p50s100": {"selector": "score_model", "caption_fraction": 0.5},
    "oracle": {"selector": "oracle", "caption_fraction": 0.3, "instruction_fraction": 0.6, "label": "the truth"},
}
SEEDS = [7, 11]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Project:
    settings: dict[str, Any] = smoke_settings()
    subsets = settings["curated_subsets"]["subsets"]
    settings["curated_subsets"].update(
        subsets={"all": subsets["all"], **MORE, "random_p30s60": subsets["random_p30s60"]}, main="score_model_p20s60"
    )
    settings["finetuned_models"]["seeds"] = SEEDS
    settings["rl_policy"]["start_from"] = "oracle"  # any subset will do, not only the main one
    made = checkout(tmp_path_factory.mktemp("subsets") / "project", settings=settings)
    made.call("rsqa", "run")
    return made


def results(project: Project, asset: str, table: str = "results") -> pd.DataFrame:
    folder = assets_of(project.profile)[asset].folder(project.profile)
    return pd.read_parquet(project.root / folder / f"{table}.parquet")


def test_every_subset_is_selected_tuned_and_measured(varied: Project) -> None:
    subsets = ["all", *MORE, "random_p30s60"]
    for family in ("clip", "vlm"):
        models = list(dict.fromkeys(results(varied, f"{family}_benchmark")["model"]))
        assert models[: len(subsets) + 1] == ["base", *subsets]
    rule = json.loads((varied.data / "curated_subsets/subset_oracle/rule.json").read_text())
    assert rule["selector"] == "oracle" and rule["model_version"] is None


def test_comparisons_are_about_the_main_subset_the_claims_and_the_policys_start(varied: Project) -> None:
    compared = results(varied, "vlm_benchmark", "comparisons")
    pairs = set(zip(compared["model"], compared["baseline"], strict=True))
    everything = {"base", "all", "random_p30s60", *MORE}
    ranked = {name for name in everything if name.startswith("score_model_")}
    assert pairs == {(name, other) for name in ranked for other in everything - {name}} | {
        ("rl_policy", "oracle"),
        ("rl_policy", "rl_policy_rules_only"),
        ("all", "base"),
        ("oracle", "all"),
    }


def test_every_seed_is_trained_and_every_seed_is_read(varied: Project) -> None:
    folder = varied.data / "finetuned_models/vlm_oracle"
    first, second = ((folder / name / "model.safetensors").read_bytes() for name in ("model", "model_seed_11"))
    assert first != second
    predictions = results(varied, "vlm_benchmark", "predictions")
    tuned = predictions[predictions["model"] == "oracle"]
    assert sorted(tuned["seed"].unique()) == SEEDS
    assert tuned.groupby("seed").size().nunique() == 1
    assert predictions[predictions["model"] == "base"]["seed"].isna().all()
    counted = tuned[(tuned["task"] == "count") & (tuned["metric"] == "accuracy")]
    measured = results(varied, "vlm_benchmark").set_index(["model", "task", "metric"])
    row = measured.loc[("oracle", "count", "accuracy")]
    assert row["value"] == pytest.approx(counted["correct"].mean()) and row["low"] <= row["value"] <= row["high"]
    assert row["n"] == len(counted) / len(SEEDS)


def test_the_report_and_the_terminal_name_every_subset(varied: Project) -> None:
    page = (varied.data / "report/curation_report/index.html").read_text(encoding="utf-8")
    shown = varied.call("rsqa", "run").stdout
    for label in ("score model p10s60", "score model p20s60", "score model p50s100", "the truth", "all data"):
        assert label in page, label
        assert label in shown, label
