"""What made an output: one manifest per materialization, in one append-only file per asset."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile

EMPTY_VERSION = hashlib.md5(b"[]").hexdigest() + ".dir"
"""Data version of a folder without files; never that of an output."""


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
    weights: str | None = None
    """`models.load.weights_version` of the output's folder ``model``; None if it has none, or an earlier version of
    this package recorded it."""


class ManifestStore:
    """Manifests of one profile: ``<folder>/<asset>.jsonl``, one line per materialization, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, manifest: Manifest) -> None:
        """Appends a manifest durably, readable by its owner only: settings may hold addresses of servers.

        A crash can lose at most the line being written, never an earlier one.

        Raises:
            DataError: the manifest is of an empty output.
        """
        if manifest.data_version == EMPTY_VERSION:
            raise DataError(f"{manifest.asset}: an empty output is not recorded; make it with `rsqa run`")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(manifest.asset)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write((("\n" if torn else "") + json.dumps(asdict(manifest), sort_keys=True) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def history(self, asset: str) -> list[Manifest]:
        """All manifests of an asset, oldest first. A line that is not a manifest is skipped with a warning, and an
        output that only such a line describes counts as not recorded: it is made again."""
        path = self._path(asset)
        if not path.is_file():
            return []
        found = []
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            manifest = _parse(line)
            if manifest is not None:
                found.append(manifest)
            elif line.strip():
                logging.getLogger(__name__).warning("%s, line %d: not a manifest, skipped", path, number)
        return found

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


def _parse(line: bytes) -> Manifest | None:
    """The manifest in a line, without fields that only a later version knows; None if it is not a usable one."""
    try:
        made = json.loads(line)
        recipe = Recipe(**_known(Recipe, made["recipe"]))
        manifest = Manifest(**{**_known(Manifest, made), "recipe": recipe})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    parts = (recipe.settings, recipe.inputs, recipe.sources, manifest.metrics, manifest.run)
    sound = all(isinstance(part, dict) for part in parts) and isinstance(manifest.checks, list)
    sound = sound and isinstance(manifest.weights, str | None)
    return manifest if sound and manifest.data_version != EMPTY_VERSION else None


def _known(record: type[Manifest] | type[Recipe], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in {part.name for part in fields(record)}}


def manifests(profile: Profile) -> ManifestStore:
    """The manifests of a profile on this machine, with those that came along with pulled data."""
    store = ManifestStore(profile.state / "manifests")
    store.adopt(profile.data / "report" / "lineage_manifest" / "manifests")
    return store
