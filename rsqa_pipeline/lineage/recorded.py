"""All records of a profile, read without writing anything."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.lineage.links import records
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of


def records_folder(profile: Profile) -> Path:
    """This machine's manifests; where it has none, those that came with pulled data."""
    folder = profile.state / "manifests"
    return folder if any(folder.glob("*.jsonl")) else profile.data / "report/lineage_manifest/manifests"


def all_records(profile: Profile) -> dict[str, list[dict[str, Any]]]:
    """Records by asset, oldest first: assets of the profile in its order, then those that it had earlier.

    Raises:
        UsageError: the profile has no record.
    """
    folder = records_folder(profile)
    earlier = sorted({path.stem for path in folder.glob("*.jsonl")} - set(assets_of(profile)))
    known = {name: records(folder, name) for name in [*assets_of(profile), *earlier]}
    known = {name: made for name, made in known.items() if made}
    if not known:
        raise UsageError(f"profile {profile.name} has no recorded run; make one with `rsqa run`, or `dvc pull`")
    return known


def times(record: dict[str, Any]) -> tuple[datetime, datetime] | None:
    """Start and end of a record's run; None for a record that came with pulled data, which has no facts of its run."""
    try:
        start = datetime.fromisoformat(record["run"]["started"])
        return start, start + timedelta(seconds=float(record["run"]["seconds"]))
    except (KeyError, ValueError, TypeError):
        return None
