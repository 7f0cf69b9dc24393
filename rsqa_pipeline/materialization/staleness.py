"""What is stale in a profile, and why: data, code or settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rsqa_pipeline.forgotten import FORGOTTEN
from rsqa_pipeline.lineage.manifest import ManifestStore, Recipe, manifests
from rsqa_pipeline.materialization.materialize import current_manifest, input_folders, recipe_of
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.stages.asset_names import upstream
from rsqa_pipeline.versions import folder_version


@dataclass(frozen=True)
class StaleAsset:
    """An asset that the next run makes."""

    name: str
    reasons: list[str]
    last_seconds: float | None
    """What it took when it was last made here; None where it never was."""


def stale_assets(profile: Profile, names: Iterable[str]) -> list[StaleAsset]:
    """Those of the named assets, and of what they depend on, whose output is missing or was made from something else
    than now, and all below those, in order."""
    store, assets = manifests(profile), assets_of(profile)
    found: dict[str, StaleAsset] = {}
    for asset in (assets[name] for name in upstream(assets, names)):
        stale_inputs = [name for name in asset.inputs if name in found]
        if not stale_inputs and current_manifest(profile, asset, store) is not None:
            continue
        reasons = _own_reasons(profile, asset, store)
        if stale_inputs:
            more = f" and {len(stale_inputs) - 1} more" if len(stale_inputs) > 1 else ""
            reasons.append(f"input {stale_inputs[0]}{more} will be made again")
        found[asset.name] = StaleAsset(asset.name, reasons, _last_seconds(store, asset.name))
    return list(found.values())


def _own_reasons(profile: Profile, asset: Asset, store: ManifestStore) -> list[str]:
    history, folder = store.history(asset.name), asset.folder(profile)
    if not folder.is_dir():
        return ["output is missing"] if history else ["never made"]
    made = store.find(asset.name, folder_version(folder))
    if made is None:
        return ["output on disk is not a recorded one"]
    inputs = input_folders(profile, asset)
    if not all(path.is_dir() for path in inputs.values()):
        return []  # the missing input is a reason of its own
    return differences(made.recipe, recipe_of(profile, asset, inputs))


def differences(before: Recipe, now: Recipe) -> list[str]:
    """What changed between two recipes, one line each: code, settings by key, inputs and sources by name."""
    reasons = ["code changed"] if before.code_version != now.code_version else []
    for what, old, new in (
        ("settings", before.settings, now.settings),
        ("input", before.inputs, now.inputs),
        ("source", before.sources, now.sources),
    ):
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if what == "source" and str(FORGOTTEN) in changed:
            changed.remove(str(FORGOTTEN))
            reasons.append("forgotten items changed")
        if changed:
            reasons.append(f"{what} changed: {', '.join(changed)}")
    return reasons


def _last_seconds(store: ManifestStore, name: str) -> float | None:
    times: Iterable[str] = (made.run["seconds"] for made in reversed(store.history(name)) if "seconds" in made.run)
    return next(map(float, times), None)
