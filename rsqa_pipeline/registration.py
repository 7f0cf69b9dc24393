"""The registry against the manifests: registers a model that only stands on disk, refuses one that no run made."""

from __future__ import annotations

from collections.abc import Mapping

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import input_folders
from rsqa_pipeline.models.load import weights_version
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


def refuse_forged(profile: Profile, model: Mapping[str, str]) -> None:
    """Compares a registered version (`registered_version`) with the manifests and with the output on disk.

    Raises:
        DataError: no recorded run made its data version, or the output of that version has other weights.
    """
    name = f"{model['model']} version {model['version']} of the registry"
    asset, version = assets_of(profile).get(model["asset"]), model["data_version"]
    if asset is None or manifests(profile).find(asset.name, version) is None:
        raise DataError(
            f"{name} says that it is {model['asset']} {version}, which no recorded run made; "
            "delete this version from the registry, or get the manifests it came with (`dvc pull`)"
        )
    folder = asset.folder(profile)
    if not folder.is_dir() or folder_version(folder) != version:
        return  # an earlier output: its weights are compared with the registered ones only
    found = weights_version(folder / "model")
    if found != model["weights_version"]:
        raise DataError(
            f"{name} has the weights {model['weights_version'][:12]}, but {folder}, which it says it is, has "
            f"{found[:12]}; delete this version from the registry and run `rsqa promote`"
        )
