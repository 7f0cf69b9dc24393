"""Assets by name: those of a stage, those that depend on another, those that a command means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import STAGES, assets_of
from rsqa_pipeline.stages.asset import Asset


def in_stage(assets: Mapping[str, Asset], stage: str) -> list[Asset]:
    """The assets of one stage, in order."""
    return [asset for asset in assets.values() if asset.stage == stage]


def downstream(assets: Mapping[str, Asset], name: str) -> list[str]:
    """Every asset that depends on ``name``, directly or not, in order."""
    reached = {name}
    for asset in assets.values():
        if reached.intersection(asset.inputs):
            reached.add(asset.name)
    return [other for other in assets if other in reached and other != name]


def upstream(assets: Mapping[str, Asset], names: Iterable[str]) -> list[str]:
    """The named assets and every asset that they depend on, directly or not, in order."""
    reached = set(names)
    for asset in reversed(list(assets.values())):
        if asset.name in reached:
            reached.update(asset.inputs)
    return [name for name in assets if name in reached]


def select(profile: Profile, names: Sequence[str]) -> list[str]:
    """Asset names meant by asset and stage names, in order; none means all.

    Raises UsageError naming what is unknown and what there is.
    """
    assets = assets_of(profile)
    unknown = [name for name in names if name not in assets and name not in STAGES]
    if unknown:
        raise UsageError(
            f"no asset or stage {', '.join(map(repr, unknown))}; "
            f"stages: {', '.join(STAGES)}; assets: {', '.join(assets)}"
        )
    wanted = {a.name for name in names for a in (in_stage(assets, name) if name in STAGES else [assets[name]])}
    return [name for name in assets if name in wanted or not names]
