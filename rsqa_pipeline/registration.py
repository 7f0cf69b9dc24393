"""The registry against the manifests: registers a model that only stands on disk, refuses one that no run made."""

from __future__ import annotations

from collections.abc import Mapping

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import input_folders, weights_of
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
        DataError: no recorded run made its data version, or that version was recorded, or is on disk, with other
            weights.
    """
    name = f"{model['model']} version {model['version']} of the registry"
    asset, version = assets_of(profile).get(model["asset"]), model["data_version"]
    manifest = manifests(profile).find(asset.name, version) if asset is not None else None
    if asset is None or manifest is None:
        raise DataError(
            f"{name} says that it is {model['asset']} {version}, which no recorded run made; "
            "delete this version from the registry, or get the manifests it came with (`dvc pull`)"
        )
    folder = asset.folder(profile)
    stands = folder.is_dir() and folder_version(folder) == version
    known = {"the run that made it recorded": manifest.weights, f"{folder} has": weights_of(folder) if stands else None}
    for where, found in known.items():
        if found is not None and found != model["weights_version"]:
            raise DataError(
                f"{name} has the weights {model['weights_version'][:12]}, but as {version} {where} {found[:12]}; "
                "delete this version from the registry and run `rsqa promote`"
            )
