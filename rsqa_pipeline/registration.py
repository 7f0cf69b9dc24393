"""The registry against the manifests: registers models that only stand on disk, such as after `dvc pull`, describes
registered versions, and refuses one that no run made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.evidence.cards import write_model_card
from rsqa_pipeline.evidence.facts import model_facts, rule_of
from rsqa_pipeline.evidence.figures import figures_of
from rsqa_pipeline.evidence.project import Project, recorded_project
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import input_folders, weights_of, writing
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.tracking.mlflow_logger import PROMOTED_MODEL, MlflowTracking, registered_version
from rsqa_pipeline.tracking.pyfunc_files import MODEL_ARTIFACT
from rsqa_pipeline.versions import folder_version


def register_all(profile: Profile, tracking: MlflowTracking) -> None:
    """Registers every recorded model on disk that the registry lacks. Called with the profile's lock held."""
    for asset in assets_of(profile).values():
        if _is_registered(asset):
            register_if_missing(profile, tracking, asset.name)


def describe_versions(profile: Profile, tracking: MlflowTracking, name: str | None = None) -> None:
    """Adds to registered versions what their run could not: the model card, with the figures that were measured since,
    and the files of `mlflow.pyfunc`, if an earlier version of this package registered them. Called with the profile's
    lock held.

    A version whose output no longer stands on disk keeps its card as it is.

    Args:
        name: only of this model; default: of all.

    Raises:
        DataError: the weights of a version that lacks files are not those that were registered.
    """
    versions = [found for found in tracking.versions() if "dvc.md5" in found.tags and name in (None, found.name)]
    if not versions:
        return
    project = recorded_project(profile)
    for version in versions:
        tracking.add_pyfunc_files(version)
        _log_card(project, tracking, version.tags, version.run_id)


def find_registered(profile: Profile, tracking: MlflowTracking, reference: str) -> dict[str, str]:
    """`registered_version` of a reference, compared with the manifests; a model that the registry lacks and that is on
    disk is registered first.

    Raises:
        DataError: like `registered_version` and `refuse_forged`; or another process writes the profile and the model
            has to be registered.
    """
    name = reference.removeprefix("models:/").partition("@")[0].partition("/")[0]
    asset = assets_of(profile).get(name)
    if asset is not None and _is_registered(asset) and tracking.version_at(name, "challenger") is None:
        with writing(profile, f"the registration of {name}"):
            register_if_missing(profile, tracking, name)
    found = registered_version(tracking, reference)
    refuse_forged(profile, found)
    return found


def register_if_missing(profile: Profile, tracking: MlflowTracking, name: str) -> None:
    """Registers the recorded output of asset ``name`` as the model ``name`` if the registry has no challenger."""
    asset = assets_of(profile)[name]
    folder = asset.folder(profile)
    if tracking.version_at(name, "challenger") is not None or not (folder / "model").is_dir():
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


def _is_registered(asset: Asset) -> bool:
    """Whether the asset's function registers its model, under the asset's name."""
    return asset.name == PROMOTED_MODEL or asset.stage in ("finetuned_models", "rl_policy")


def _log_card(project: Project, tracking: MlflowTracking, tags: Mapping[str, str], run_id: str) -> None:
    """Adds the model card to a version with these tags if its output stands on disk."""
    asset = tags["rsqa.asset"]
    record = project.standing.get(asset)
    model = next((model for model in project.models if model.name == asset), None)
    if model is None or record is None or record["data_version"] != tags["dvc.md5"]:
        return
    facts = model_facts(project, model)
    with TemporaryDirectory() as scratch:
        rule = rule_of(project, facts)
        figures = figures_of(project, asset)
        write_model_card(project, model, facts, figures, rule, "none", "`rsqa trace` shows", Path(scratch))
        tracking.client.log_artifacts(run_id, scratch, MODEL_ARTIFACT)
