"""Traces an asset or a registered model back to its sources by recorded versions, and compares them with the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore, manifests
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version, source_version


@dataclass
class TraceNode:
    """One version of one asset or of an external source."""

    name: str
    version: str
    on_disk: str
    """``matches``, ``differs (<version now>)``, or ``missing``."""
    details: dict[str, Any] = field(default_factory=dict)
    inputs: list[TraceNode] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "on_disk": self.on_disk,
            **self.details,
            "inputs": [node.as_dict() for node in self.inputs],
        }

    def mismatches(self) -> list[TraceNode]:
        """This node and its upstream nodes whose file or folder on disk is not the recorded version, each once."""
        found = {(self.name, self.version): self} if self.on_disk != "matches" else {}
        for node in self.inputs:
            found.update({(n.name, n.version): n for n in node.mismatches()})
        return list(found.values())


def trace(profile: Profile, asset: str, data_version: str | None = None) -> TraceNode:
    """The recorded chain from ``asset`` back to its sources.

    Args:
        data_version: default: the version on disk if it was recorded, otherwise the newest recorded one.

    Raises:
        DataError: the asset or version was never recorded here.
    """
    assets = assets_of(profile)
    if asset not in assets:
        raise UsageError(f"no asset {asset!r}; known: {', '.join(assets)}")
    store = manifests(profile)
    if data_version is None:
        history = store.history(asset)
        if not history:
            raise DataError(f"{asset} of profile {profile.name} has no recorded run; make it with `rsqa run {asset}`")
        current = _current_version(profile, asset)
        newest = next((m for m in reversed(history) if m.data_version == current), history[-1])
        data_version = newest.data_version
    return _node(profile, store, asset, data_version, {})


def _current_version(profile: Profile, asset: str) -> str | None:
    known = assets_of(profile).get(asset)
    if known is None:  # recorded when the profile had such an asset
        return None
    folder = known.folder(profile)
    return folder_version(folder) if folder.is_dir() else None


def _node(
    profile: Profile, store: ManifestStore, asset: str, version: str, nodes: dict[tuple[str, str], TraceNode]
) -> TraceNode:
    if (asset, version) in nodes:
        return nodes[asset, version]
    now = _current_version(profile, asset)
    node = nodes[asset, version] = TraceNode(asset, version, _compare(version, now))
    manifest = store.find(asset, version)
    if manifest is None:
        node.details["unknown"] = "no manifest of this version here; pull the data it came with (`dvc pull`)"
        return node
    node.details = _details(manifest)
    for path, recorded in manifest.recipe.sources.items():
        found = source_version(Path(path)) if Path(path).exists() else None
        node.inputs.append(TraceNode(path, recorded, _compare(recorded, found), {"kind": "source"}))
    node.inputs += [_node(profile, store, name, v, nodes) for name, v in manifest.recipe.inputs.items()]
    return node


def _details(manifest: Manifest) -> dict[str, Any]:
    return {
        "kind": "asset",
        "code_version": manifest.recipe.code_version,
        "settings": manifest.recipe.settings,
        "metrics": manifest.metrics,
        "checks": manifest.checks,
        "run": manifest.run,
    }


def _compare(recorded: str, found: str | None) -> str:
    if found is None:
        return "missing"
    return "matches" if found == recorded else f"differs ({found})"
