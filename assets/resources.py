"""What assets share: the profile, the tracking store, and one way to materialize."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from rsqa_pipeline.errors import ProfileBusy, RsqaError, storage_error
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import (
    CheckFailed,
    Materialization,
    current_manifest,
    materialize,
    settings_of,
    writing,
)
from rsqa_pipeline.materialization.progress import report
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.stages import STAGES, assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.tracking.run_logger import SilentLogger

from .dvc_record import record
from .metadata import check_result, output_metadata

LAUNCHED_BY = "rsqa/launched_by"
"""Tag of a Dagster run that the command line or DVC started, and records when it ends."""

Materialized = Iterator[dg.AssetCheckResult | dg.MaterializeResult]


class Pipeline(dg.ConfigurableResource):
    """One profile's pipeline."""

    profile_name: str
    force: bool = False

    @cached_property
    def profile(self) -> Profile:
        return load_profile(self.profile_name)

    @cached_property
    def assets(self) -> dict[str, Asset]:
        return assets_of(self.profile)

    def materialize(self, context: dg.AssetExecutionContext, name: str, inputs: dict[str, Path]) -> Materialized:
        """Makes the asset from its upstream folders; yields its checks and its version."""
        asset = self.assets[name]
        report("start", asset=name)
        try:
            done = self._materialize(asset, context, inputs)
        except CheckFailed as failure:
            yield from (check_result(asset, check) for check in failure.checks)
            raise dg.Failure(str(failure), allow_retries=False) from failure
        except ProfileBusy as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except RsqaError as error:
            raise dg.Failure(str(error), allow_retries=STAGES[asset.stage].retried) from error
        except Exception as error:
            known = storage_error(error)
            if known is None:
                raise
            raise dg.Failure(str(known), allow_retries=False) from known
        report("end", asset=name, seconds=done.seconds, reused=done.reused, metrics=done.manifest.metrics)
        yield dg.MaterializeResult(
            asset_key=asset.name,
            data_version=dg.DataVersion(done.manifest.data_version),
            metadata=output_metadata(asset, done),
            check_results=[check_result(asset, check) for check in done.manifest.checks],
        )

    def _materialize(self, asset: Asset, context: dg.AssetExecutionContext, inputs: dict[str, Path]) -> Materialization:
        """Under the lock; a run that `rsqa run` did not start records its outputs itself."""
        run = {"dagster_run": context.run_id}
        with writing(self.profile, f"Dagster run {context.run_id[:8]}"):
            current = not self.force and current_manifest(self.profile, asset, manifests(self.profile)) is not None
            if current or not STAGES[asset.stage].tracked:
                done = materialize(self.profile, asset, inputs, SilentLogger(), run, force=self.force)
            else:
                done = self._materialize_tracked(asset, run, inputs)
            if LAUNCHED_BY not in context.run.tags:
                record(self.profile, [] if done.reused else [asset.name])
        return done

    def _materialize_tracked(self, asset: Asset, run: dict[str, str], inputs: dict[str, Path]) -> Materialization:
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking  # seconds to import

        with MlflowTracking(self.profile).asset_run(asset.name, run["dagster_run"], inputs) as logger:
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
        profile = load_profile(self.profile_name)
        return assets_of(profile)[context.asset_key.path[-1]].folder(profile)


def _flat(profile: Profile, asset: Asset) -> dict[str, object]:
    """The settings that the asset sees as MLflow parameters, one per leaf."""
    flat: dict[str, object] = {"profile": profile.name}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                add(f"{prefix}.{key}", below)
        else:
            flat[prefix] = value

    for key, value in settings_of(profile, asset).items():
        add(key, value)
    return flat
