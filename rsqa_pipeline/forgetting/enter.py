"""Puts a deletion request on the list, and removes what is kept between runs and would hold on to it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from rsqa_pipeline.dvc_files.stages import dvc_yaml
from rsqa_pipeline.forgetting.request import Request
from rsqa_pipeline.forgotten import Tombstone, add_tombstones
from rsqa_pipeline.materialization.materialize import writing
from rsqa_pipeline.profile import Profile, default_profile

_DVC_YAML = Path("dvc.yaml")


def enter(profile_name: str, profile: Profile, request: Request, reason: str, who: str) -> list[Tombstone]:
    """Adds the request's ids to the list; returns the lines that are new.

    From then on every asset that reads sources is stale. ``dvc.yaml`` gets the list as a dependency, if it was the
    generated one.

    Raises:
        DataError: another process writes the profile, or the list cannot be read.
    """
    today = datetime.now(UTC).date().isoformat()
    lines = [Tombstone(named.kind, named.id, reason, today, who) for named in request.ids]
    with writing(profile, "rsqa forget"):
        generated = profile_name == default_profile() and _DVC_YAML.is_file()
        generated = generated and _DVC_YAML.read_text(encoding="utf-8") == dvc_yaml(profile_name, profile)
        new = add_tombstones(lines)
        if generated:
            _DVC_YAML.write_text(dvc_yaml(profile_name, profile), encoding="utf-8")
        _drop_kept(profile, request)
    return new


def _drop_kept(profile: Profile, request: Request) -> None:
    """Removes vectors of the images, replies of benchmarks that asked about them, and outputs that checks rejected.

    Tables of scores lose the rows when they are next written.
    """
    for image_id in (named.id for named in request.named if named.kind == "image"):
        for file in (profile.state / "scores").glob(f"**/{image_id[:3]}/{image_id[3:]}.f32"):
            file.unlink()
    if request.touched["items"]:
        shutil.rmtree(profile.score_cache("vlm_benchmark"), ignore_errors=True)
    for folder in profile.data.glob("*/.*.rejected"):
        shutil.rmtree(folder)
