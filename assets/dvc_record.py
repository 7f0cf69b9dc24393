"""Which outputs go into ``dvc.lock``, whatever door made them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rsqa_pipeline.dvc_files.lock import locked_versions
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import current_manifest
from rsqa_pipeline.profile import Profile, default_profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version


def recorded_by_dvc(profile: Profile) -> bool:
    """Whether ``dvc.yaml`` is about this very profile; others are traced by their manifests alone."""
    return profile.name == default_profile() and Path("dvc.yaml").is_file()


def record(profile: Profile, computed: Iterable[str]) -> list[str]:
    """Writes every output that stands as a run made it to ``dvc.lock``; returns their names. Called with the lock held.

    Not under ``dvc repro``, which records by itself and holds DVC's locks meanwhile.

    Args:
        computed: assets just made: recorded even if only code or settings changed and the output is the same.
    """
    if "DVC_STAGE" in os.environ or not recorded_by_dvc(profile):
        return []
    locked, assets = locked_versions(), assets_of(profile)
    store = manifests(profile)
    changed = {
        name
        for name, asset in assets.items()
        if asset.folder(profile).is_dir()
        and locked.get(name) != folder_version(asset.folder(profile))
        and current_manifest(profile, asset, store) is not None
    }
    names = sorted(changed | set(computed), key=list(assets).index)
    if names:
        from .dvc_commit import commit_outputs  # a second to import

        commit_outputs(names)
    return names
