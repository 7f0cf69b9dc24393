"""What made an output: one manifest per materialization, in one append-only file per asset."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an output. Equal recipes give equal outputs on the same machine."""

    code_version: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    """Upstream asset -> data version, hashed from disk when it was read."""
    sources: dict[str, str]
    """External path -> version."""


@dataclass(frozen=True)
class Manifest:
    """One materialization of one asset."""

    asset: str
    data_version: str
    recipe: Recipe
    metrics: dict[str, float]
    checks: list[dict[str, Any]]
    run: dict[str, str] = field(default_factory=dict)
    """Git commit, runs, library versions, start and duration: what may differ between equal outputs."""


class ManifestStore:
    """Manifests of one profile: ``<folder>/<asset>.jsonl``, one line per materialization, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, manifest: Manifest) -> None:
        """Appends a manifest durably. A crash can lose at most the line being written, never an earlier one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(manifest.asset)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(asdict(manifest), sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def history(self, asset: str) -> list[Manifest]:
        """All manifests of an asset, oldest first. An incomplete line is skipped."""
        path = self._path(asset)
        if not path.is_file():
            return []
        return [m for line in path.read_text(encoding="utf-8").splitlines() if (m := _parse(line))]

    def find(self, asset: str, data_version: str) -> Manifest | None:
        """The newest manifest of exactly this version; None if there is none."""
        return next((m for m in reversed(self.history(asset)) if m.data_version == data_version), None)

    def adopt(self, folder: Path) -> None:
        """Adds the manifests that came with pulled data and are not known here yet."""
        for path in sorted(folder.glob("*.jsonl")):
            known = {(m.data_version, json.dumps(asdict(m.recipe), sort_keys=True)) for m in self.history(path.stem)}
            for manifest in ManifestStore(folder).history(path.stem):
                if (manifest.data_version, json.dumps(asdict(manifest.recipe), sort_keys=True)) not in known:
                    self.append(manifest)

    def _path(self, asset: str) -> Path:
        return self.folder / f"{asset}.jsonl"


def _parse(line: str) -> Manifest | None:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        return None
    return Manifest(**{**fields, "recipe": Recipe(**fields["recipe"])})
