"""What an evidence package is about: the outputs on disk, with the record of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.git import commit
from rsqa_pipeline.lineage.links import record_hash
from rsqa_pipeline.lineage.recorded import all_records, times
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import folder_version

Record = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A folder of weights that an asset made."""

    asset: str
    name: str
    """The asset's, with ``_seed_<seed>`` for all but its first seed."""
    folder: Path


@dataclass(frozen=True)
class Project:
    """A profile's recorded outputs."""

    profile: Profile
    commit: str
    records: dict[str, list[Record]]
    standing: dict[str, Record]
    """Asset -> the record of the version on disk."""
    missing: list[str]
    """Assets of the profile that were never made here."""

    @property
    def subsets(self) -> list[str]:
        """Assets that are published subsets."""
        return [name for name in self.standing if name.startswith("subset_")]

    @property
    def models(self) -> list[Model]:
        return models_on_disk(self.profile)

    @property
    def newest(self) -> datetime | None:
        """End of the newest run among the standing records; None if all came with pulled data."""
        return max((when[1] for record in self.standing.values() if (when := times(record))), default=None)

    def asset(self, name: str) -> Asset:
        return assets_of(self.profile)[name]

    def folder(self, name: str) -> Path:
        return self.asset(name).folder(self.profile)

    def versions(self) -> dict[str, dict[str, str]]:
        """Asset -> data version and hash of the record that stands."""
        return {
            name: {"data_version": record["data_version"], "record": record_hash(record)}
            for name, record in self.standing.items()
        }

    def behind(self, asset: str) -> list[tuple[str, str, str]]:
        """Kind (asset, source), name and version of everything that the standing version was made from, sorted."""
        found, waiting = set[tuple[str, str, str]](), [self.standing[asset]]
        while waiting:
            recipe = waiting.pop()["recipe"]
            found |= {("source", name, version) for name, version in recipe["sources"].items()}
            for name, version in recipe["inputs"].items():
                if ("asset", name, version) not in found:
                    found.add(("asset", name, version))
                    record = _record_of(self.records, name, version)
                    waiting += [] if record is None else [record]
        return sorted(found)


def read_project(profile: Profile) -> Project:
    """Hashes every output of the profile and finds its record; writes nothing.

    Raises:
        UsageError: the profile was not run, or no output of it is here.
        DataError: an output is not a recorded version.
    """
    project, versions = recorded_project(profile), _versions_on_disk(profile)
    if not versions:
        raise UsageError(f"no output of profile {profile.name} is here; make them with `rsqa run`, or `dvc pull`")
    for name, version in versions.items():
        if name not in project.standing:
            raise DataError(f"{name} on disk is {version}, which no record has; see `rsqa audit`, or `rsqa run {name}`")
    return project


def recorded_project(profile: Profile) -> Project:
    """As `read_project`, but an output that is not a recorded version counts as missing.

    Raises:
        UsageError: the profile was not run.
    """
    records = all_records(profile)
    found = {name: _record_of(records, name, version) for name, version in _versions_on_disk(profile).items()}
    standing = {name: record for name, record in found.items() if record is not None}
    missing = [name for name in assets_of(profile) if name not in standing]
    return Project(profile, commit(), records, standing, missing)


def models_on_disk(profile: Profile) -> list[Model]:
    """Every folder of weights among the outputs, recorded or not."""
    return [
        Model(name, name + folder.name.removeprefix("model"), folder)
        for name, asset in assets_of(profile).items()
        for folder in sorted(asset.folder(profile).glob("model*"))
        if any(folder.glob("*.safetensors"))
    ]


def versions_on_disk(profile: Profile) -> dict[str, dict[str, str]]:
    """As `Project.versions`, also where an output has no record, whose hash is then ``none``."""
    records, found = all_records(profile), {}
    for name, version in _versions_on_disk(profile).items():
        record = _record_of(records, name, version)
        found[name] = {"data_version": version, "record": "none" if record is None else record_hash(record)}
    return found


def file_hashes(folder: Path) -> dict[str, str]:
    """Hex sha256 of every file below a folder, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _versions_on_disk(profile: Profile) -> dict[str, str]:
    folders = {name: asset.folder(profile) for name, asset in assets_of(profile).items()}
    return {name: folder_version(folder) for name, folder in folders.items() if folder.is_dir()}


def _record_of(records: dict[str, list[Record]], asset: str, version: str) -> Record | None:
    """The newest record of a version."""
    return next((record for record in reversed(records.get(asset, [])) if record["data_version"] == version), None)
