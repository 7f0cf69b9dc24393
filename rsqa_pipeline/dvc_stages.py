"""The text of ``dvc.yaml``, made from the table of stages so that the two cannot drift apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.materialize import metrics_file, source_paths
from rsqa_pipeline.profile import Profile, profile_path
from rsqa_pipeline.stages import ASSETS, Asset
from rsqa_pipeline.versions import PACKAGE, code_files

_HEADER = """\
# One DVC stage for each asset of the profile in params.yaml. Made by `rsqa stages --dvc > dvc.yaml` from
# rsqa_pipeline/stages.py; a test fails when the two differ.
"""


def dvc_yaml(profile_name: str, profile: Profile) -> str:
    """``dvc.yaml`` for one profile: commands, dependencies on code and data, parameters, outputs, metrics."""
    stages = {asset.name: _stage(profile_name, profile, asset) for asset in ASSETS.values()}
    return _HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


def _stage(profile_name: str, profile: Profile, asset: Asset) -> dict[str, Any]:
    code = [(Path(PACKAGE.name) / file.relative_to(PACKAGE)).as_posix() for file in code_files(asset.module)]
    upstream = [ASSETS[name].folder(profile).as_posix() for name in asset.inputs]
    sources = [path.as_posix() for path in source_paths(profile, asset)]
    return {
        "cmd": f"rsqa run --profile {profile_name} {asset.name}",
        "deps": sorted(upstream) + sorted(sources) + sorted(code),
        "params": [{profile_path(profile_name).as_posix(): ["seed", "compute", *asset.sections]}],
        "outs": [asset.folder(profile).as_posix()],
        "metrics": [{metrics_file(profile, asset).as_posix(): {"cache": False}}],
    }
