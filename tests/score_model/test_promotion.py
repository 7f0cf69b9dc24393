"""The gate: promotes a model that is not worse; refuses one that is worse overall, in a family or on a probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import Manifest, Recipe, manifests
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.evaluation.probes import ProbeResult
from rsqa_pipeline.score_model.evaluation.promotion import Decision, decide, promote
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from tests.score_model.examples import colour_pairs, pair, write_pairs

SOUND = [ProbeResult("number", 0.9, 0.8, 0.95, 50)]
PAIRS = [pair(str(i), "a", "b", family="caption" if i < 80 else "open_ended") for i in range(100)]
RIGHT, WRONG = (1.0, 0.0), (0.0, 1.0)


def _decide(new: list[bool], old: list[bool] | None, probes: list[ProbeResult] = SOUND) -> Decision:
    def scores(verdicts: list[bool]) -> list[tuple[float | None, float | None]]:
        return [RIGHT if verdict else WRONG for verdict in verdicts]

    return decide(PAIRS, scores(new), scores(old) if old else None, probes, 0.02, 200, seed=0)


def test_a_better_challenger_is_promoted_with_its_numbers() -> None:
    decision = _decide([True] * 90 + [False] * 10, [True] * 70 + [False] * 30)
    assert decision.promoted
    assert decision.numbers["challenger"] == 0.9 and decision.numbers["champion"] == 0.7
    assert decision.numbers["mcnemar_p"] == pytest.approx(2 * 0.5**20)


def test_an_equal_challenger_is_promoted() -> None:
    assert _decide([True] * 90 + [False] * 10, [True] * 90 + [False] * 10).promoted


def test_a_worse_challenger_is_refused() -> None:
    decision = _decide([True] * 70 + [False] * 30, [True] * 90 + [False] * 10)
    assert not decision.promoted and "worse than the champion" in decision.reasons[0]


def test_a_loss_in_one_family_is_refused_despite_an_overall_gain() -> None:
    new = [True] * 80 + [False] * 20  # every caption right, every answer wrong
    old = [True] * 40 + [False] * 40 + [True] * 20
    decision = _decide(new, old)
    assert decision.numbers["challenger"] > decision.numbers["champion"]
    assert not decision.promoted and "family open_ended" in " ".join(decision.reasons)


def test_a_failed_probe_is_refused_even_without_a_champion() -> None:
    blind = [ProbeResult("colour", 0.52, 0.45, 0.6, 200)]
    decision = _decide([True] * 100, None, blind)
    assert not decision.promoted and decision.reasons[0].startswith("probe colour")
    assert _decide([True] * 100, None).promoted


def test_models_that_share_no_scored_pair_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="no held-out pair in common"):
        decide(PAIRS[:1], [(None, 1.0)], [RIGHT], SOUND, 0.02, 100, seed=0)


def _register(tracking: MlflowTracking, model: ScoreModel, processor: QwenVLProcessor, folder: Path, run: str) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    with tracking.asset_run("score_model", run, {}) as logger:
        logger.log_model("score_model", folder)
        logger.record_output(f"{run}.dir", {})


def test_the_gate_in_a_real_registry(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: ScoreModel,
    processor: QwenVLProcessor,
    images: dict[str, str],
    profile: Callable[..., Profile],
) -> None:
    settings = profile()
    monkeypatch.chdir(tmp_path)
    for name in ("caption_preferences", "instruction_preferences"):
        write_pairs(
            assets_of(settings)[name].folder(settings), colour_pairs(images, "heldout") if name[0] == "c" else []
        )
    tracking = MlflowTracking(settings)
    with pytest.raises(DataError, match="no score model is registered"):
        promote(settings, tracking)
    _register(tracking, model, processor, tmp_path / "one", "run-1")
    version, decision = promote(settings, tracking)
    stored = tracking.client.get_model_version("score_model", version)
    # a random model passes no probe: it is refused, and the numbers are stored with the version
    assert not decision.promoted and tracking.version_at("score_model", "champion") is None
    assert "probe" in stored.tags["rsqa.promotion"]
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    manifests(settings).append(Manifest("score_model", "run-1.dir", Recipe("", {}, {}, {}), {}, []))
    result = CliRunner().invoke(app, ["promote", "--profile", str(path)])
    assert result.exit_code == 4 and "version 1: refused" in result.output and "probe" in result.output
    tracking.record_decision("score_model", version, {}, promoted=True)
    with torch.no_grad():
        model.head.weight.mul_(-1)
    _register(tracking, model, processor, tmp_path / "two", "run-2")
    second, compared = promote(settings, tracking)
    assert second == "2" and compared.numbers["compared"] == 12
    assert compared.numbers["challenger"] == pytest.approx(1 - compared.numbers["champion"])
    assert tracking.version_at("score_model", "champion") == ("2" if compared.promoted else "1")
