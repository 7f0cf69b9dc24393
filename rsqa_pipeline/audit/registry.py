"""The model registry against the records: aliases, data and weights of every registered version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline.audit.databases import MlflowStory
from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import weights_version


def check_aliases(story: MlflowStory) -> list[Finding]:
    """``challenger`` must be the newest version, ``champion`` the newest one that `rsqa promote` promoted."""
    found = []
    for model in sorted({name for name, _ in story.versions}):
        tags = {number: tags for (name, number), tags in story.versions.items() if name == model}
        promoted = [number for number, values in tags.items() if _promoted(values)]
        wanted = {"challenger": max(tags), "champion": max(promoted, default=None)}
        for alias, number in wanted.items():
            now = story.aliases.get((model, alias))
            if now != number:
                found.append(Finding("moved_alias", model, f"{alias} is version {now}, given to version {number}"))
    return found


def _promoted(tags: Mapping[str, str]) -> bool:
    try:
        return bool(json.loads(tags["rsqa.promotion"])["promoted"])
    except (KeyError, ValueError, TypeError):
        return False


def check_versions(story: MlflowStory, records: Mapping[str, list[dict[str, Any]]], mlruns: Path) -> list[Finding]:
    """Each registered version must name data that a record has, with the record's weights, and hold those weights.

    Args:
        records: of every asset.
        mlruns: folder of the artifacts; the stored addresses may be those of the checkout that this one is a copy of.
    """
    found = []
    for (model, number), tags in sorted(story.versions.items()):
        asset, version, weights = (tags.get(key) for key in ("rsqa.asset", "dvc.md5", "rsqa.weights_version"))
        where = f"version {number}"
        made = [record for record in records.get(asset or "", []) if record["data_version"] == version]
        if not made:
            found.append(Finding("data_digest", model, f"{where} names {asset} {version}, which no record has"))
        elif weights not in (known := {record.get("weights") for record in made}) and None not in known:
            found.append(Finding("data_digest", model, f"{where} has other weights than the record of {version}"))
        folder = mlruns / story.sources[model, number].rpartition("/mlruns/")[2]
        try:
            stored = weights_version(folder)
        except (ModelError, OSError):
            found.append(Finding("missing_output", model, f"{where}: {folder} has no weights"))
            continue
        if stored != weights:
            found.append(Finding("changed_byte", model, f"{where}: the weights in {folder} are not those registered"))
    return found
