"""What assets share: the profile, the tracking store, and one way to materialize."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.materialize import CheckFailed, Materialization, materialize
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.stages import ASSETS, Asset
from rsqa_pipeline.tracking.run_logger import SilentLogger

from .metadata import check_result, output_metadata

Materialized = Iterator[dg.AssetCheckResult | dg.MaterializeResult]

TRACKED_STAGES = {"tiny_models", "score_model", "finetuned_models", "rl_policy", "benchmarks"}
"""Stages whose assets train or measure: each gets an MLflow run."""


class Pipeline(dg.ConfigurableResource):
    """One profile's pipeline."""

    profile_name: str
    force: bool = False

    @cached_property
    def profile(self) -> Profile:
        return load_profile(self.profile_name)

    def materialize(self, context: dg.AssetExecutionContext, **inputs: Path) -> Materialized:
        """Makes the asset that ``context`` is for, from its upstream folders; yields its checks and its version."""
        asset = ASSETS[context.asset_key.path[-1]]
        try:
            done = self._materialize(asset, context.run_id, inputs)
        except CheckFailed as failure:
            yield from (check_result(asset, check) for check in failure.checks)
            raise dg.Failure(str(failure), allow_retries=False) from failure
        except RsqaError as error:
            raise dg.Failure(str(error), allow_retries=bool(asset.stage == "preference_data")) from error
        yield dg.MaterializeResult(
            asset_key=asset.name,
            data_version=dg.DataVersion(done.manifest.data_version),
            metadata=output_metadata(done),
            check_results=[check_result(asset, check) for check in done.manifest.checks],
        )

    def _materialize(self, asset: Asset, run_id: str, inputs: dict[str, Path]) -> Materialization:
        run = {"dagster_run": run_id}
        if asset.stage not in TRACKED_STAGES:
            return materialize(self.profile, asset, inputs, SilentLogger(), run, force=self.force)
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking  # seconds to import

        with MlflowTracking(self.profile).asset_run(asset.name, run_id, inputs) as logger:
            logger.log_params(_flat(self.profile, asset))
            run["mlflow_run"] = logger.run_id
            done = materialize(self.profile, asset, inputs, logger, run, force=self.force)
            logger.record_output(done.manifest.data_version, done.manifest.metrics)
        return done


class FolderIOManager(dg.ConfigurableIOManager):
    """Hands an asset's folder to the assets below it; the assets write their folders themselves."""

    profile_name: str

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        raise dg.DagsterInvariantViolationError(f"{context.asset_key.to_user_string()} must write its own folder")

    def load_input(self, context: dg.InputContext) -> Path:
        return ASSETS[context.asset_key.path[-1]].folder(load_profile(self.profile_name))


def _flat(profile: Profile, asset: Asset) -> dict[str, object]:
    flat: dict[str, object] = {"profile": profile.name}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                add(f"{prefix}.{key}", below)
        else:
            flat[prefix] = value

    dump = profile.model_dump(mode="json")
    for section in ("seed", "compute", *asset.sections):
        add(section, dump[section])
    return flat
