"""Registers a trained model that stands on disk but is not in the registry, e.g. after its database was deleted."""

from __future__ import annotations

from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import input_folders
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from rsqa_pipeline.versions import folder_version


def register_if_missing(profile: Profile, tracking: MlflowTracking, name: str) -> None:
    """Registers the recorded output of asset ``name`` as the model ``name`` if the registry has no challenger."""
    asset = assets_of(profile)[name]
    folder = asset.folder(profile)
    if tracking.version_at(name, "challenger") is not None or not folder.is_dir():
        return
    manifest = manifests(profile).find(name, folder_version(folder))
    if manifest is None:
        return
    pipeline_run = manifest.run.get("dagster_run", "restored")
    inputs = {above: path for above, path in input_folders(profile, asset).items() if path.is_dir()}
    with tracking.asset_run(name, pipeline_run, inputs) as logger:
        logger.log_model(name, folder / "model")
        logger.record_output(manifest.data_version, manifest.metrics)
    tracking.finish(pipeline_run, succeeded=True)
