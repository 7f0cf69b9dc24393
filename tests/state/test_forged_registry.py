"""The registry is compared with what was recorded: changed weights, forged tags and forged aliases are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import Manifest, Recipe, manifests
from rsqa_pipeline.materialization.materialize import weights_of
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import ROOT

OTHER_VERSION = "0" * 32 + ".dir"
OTHER_WEIGHTS = "0" * 64


@pytest.fixture
def tracking(profile: Profile) -> MlflowTracking:
    """A score model on disk, its manifest, and version 1 in the registry."""
    folder = assets_of(profile)["score_model"].folder(profile)
    (folder / "model").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model" / "model.safetensors")
    version = folder_version(folder)
    recipe = Recipe("", {}, {}, {})
    manifests(profile).append(Manifest("score_model", version, recipe, {}, [], weights=weights_of(folder)))
    tracking = MlflowTracking(profile)
    with tracking.asset_run("score_model", "run-1", {}) as logger:
        logger.log_model("score_model", folder / "model")
        logger.record_output(version, {})
    return tracking


def change_weights(tracking: MlflowTracking) -> None:
    file = next((tracking.state / "mlruns").rglob("model.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def change_weights_and_tag(tracking: MlflowTracking) -> None:
    from rsqa_pipeline.models.load import weights_version

    change_weights(tracking)
    forged = weights_version(next((tracking.state / "mlruns").rglob("model.safetensors")).parent)
    tracking.client.set_model_version_tag("score_model", "1", "rsqa.weights_version", forged)


def tag(name: str, value: str) -> Callable[[MlflowTracking], None]:
    return lambda tracking: tracking.client.set_model_version_tag("score_model", "1", name, value)


FORGERIES = [
    (change_weights, "the weights in .* registered were"),
    (change_weights_and_tag, "but as .* recorded"),
    (tag("rsqa.weights_version", OTHER_WEIGHTS), "the weights in .* registered were 000000000000"),
    (tag("dvc.md5", OTHER_VERSION), "which no recorded run made"),
    (tag("rsqa.asset", "clip_all"), "which no recorded run made"),
    (
        lambda tracking: tracking.client.delete_model_version_tag("score_model", "1", "dvc.md5"),
        r"has no tag dvc\.md5",
    ),
    (
        lambda tracking: tracking.client.set_registered_model_alias("score_model", "champion", "1"),
        "did not promote it",
    ),
]


@pytest.mark.parametrize(("forge", "words"), FORGERIES)
def test_promote_and_trace_refuse_a_forged_version_by_name(
    profile: Profile, tracking: MlflowTracking, tmp_path: Path, forge: Callable[[MlflowTracking], None], words: str
) -> None:
    path = tmp_path / "profile.yaml"
    settings = profile.model_dump(mode="json")
    settings["source_pairs"]["captions"]["path"] = str(ROOT / settings["source_pairs"]["captions"]["path"])
    path.write_text(yaml.safe_dump(settings))
    traced = CliRunner().invoke(app, ["trace", "models:/score_model@challenger", "--profile", str(path)])
    assert traced.exception is None or isinstance(traced.exception, SystemExit), traced.exception
    forge(tracking)
    alias = "champion" if tracking.client.get_registered_model("score_model").aliases.get("champion") else "challenger"
    for command in (["promote"], ["trace", f"models:/score_model@{alias}"]):
        refused = CliRunner().invoke(app, [*command, "--profile", str(path)])
        assert isinstance(refused.exception, DataError), refused.output
        with pytest.raises(DataError, match=f"score_model version 1 of the registry.*{words}"):
            raise refused.exception


def test_an_earlier_version_whose_output_was_replaced_is_still_accepted(
    profile: Profile, tracking: MlflowTracking
) -> None:
    from rsqa_pipeline.registration import refuse_forged
    from rsqa_pipeline.tracking.mlflow_logger import registered_version

    folder = assets_of(profile)["score_model"].folder(profile)
    save_file({"w": torch.zeros(2)}, folder / "model" / "model.safetensors")
    first = manifests(profile).history("score_model")[0]
    manifests(profile).append(replace(first, data_version=folder_version(folder)))
    refuse_forged(profile, registered_version(tracking, "models:/score_model/1"))

    change_weights_and_tag(tracking)
    with pytest.raises(DataError, match=r"score_model version 1 of the registry has the weights .* made it recorded"):
        refuse_forged(profile, registered_version(tracking, "models:/score_model/1"))


def test_without_recorded_weights_the_output_on_disk_is_compared(profile: Profile, tracking: MlflowTracking) -> None:
    from rsqa_pipeline.registration import refuse_forged
    from rsqa_pipeline.tracking.mlflow_logger import registered_version

    recorded = manifests(profile).history("score_model")[0]
    manifests(profile).append(replace(recorded, weights=None))  # as an earlier version of this package wrote it
    refuse_forged(profile, registered_version(tracking, "models:/score_model/1"))
    change_weights_and_tag(tracking)
    with pytest.raises(DataError, match=r"score_model version 1 of the registry has the weights .*score_model has"):
        refuse_forged(profile, registered_version(tracking, "models:/score_model/1"))
