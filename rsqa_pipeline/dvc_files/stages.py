"""The text of ``dvc.yaml``, made from the table of stages so that the two cannot drift apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.materialization.materialize import input_folders, metrics_file
from rsqa_pipeline.profile import Profile, profile_path
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import PACKAGE, code_files

_HEADER = """\
# One DVC stage for each asset of the profile in params.yaml. Made by `rsqa stages --dvc > dvc.yaml` from
# rsqa_pipeline/stages/; a test fails when the two differ.
"""


def dvc_yaml(profile_name: str, profile: Profile) -> str:
    """``dvc.yaml`` for one profile: commands, dependencies on code and data, parameters, outputs, metrics."""
    stages = {asset.name: stage_entry(profile_name, profile, asset) for asset in assets_of(profile).values()}
    return _HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


def stage_entry(profile_name: str, profile: Profile, asset: Asset) -> dict[str, Any]:
    """The entry of one asset in ``dvc.yaml``."""
    code = [(Path(PACKAGE.name) / file.relative_to(PACKAGE)).as_posix() for file in code_files(asset.module)]
    upstream = [folder.as_posix() for folder in input_folders(profile, asset).values()]
    sources = [Path(path).as_posix() for path in asset.sources]
    file = profile_path(profile_name)
    return {
        "cmd": f"rsqa run --profile {profile_name} {asset.name}",
        "deps": sorted(upstream) + sorted(sources) + sorted(code),
        "params": [{file.as_posix(): _written_keys(file, asset)}],
        # persist: DVC leaves output and metrics where they are, and `rsqa run` makes them again only if they are stale
        "outs": [{asset.folder(profile).as_posix(): {"persist": True}}],
        "metrics": [{metrics_file(profile, asset).as_posix(): {"cache": False, "persist": True}}],
    }


def _written_keys(file: Path, asset: Asset) -> list[str]:
    """The asset's keys that the profile's file writes down; DVC knows no default, and refuses a missing key."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))

    def written(key: str) -> bool:
        value = settings
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    return [key for key in asset.keys if written(key)]
