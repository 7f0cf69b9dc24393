"""Makes one asset's folder from its inputs: skipped where nothing changed, whole or not at all where something did."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rsqa_pipeline.data_quality.checks import ADVISORY, CheckResult, run_checks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore, Recipe
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import ASSETS, Asset
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import code_version, folder_version, source_version

_LIBRARIES = ("torch", "transformers", "trl", "peft", "numpy", "pillow")


@dataclass(frozen=True)
class Materialization:
    """An asset's output as it now stands on disk."""

    manifest: Manifest
    folder: Path
    reused: bool
    """True where the output was already there, made by the same recipe; nothing was computed."""
    seconds: float


class CheckFailed(DataError):
    """A blocking data-quality check failed; the output did not replace the previous one."""

    def __init__(self, asset: str, checks: list[CheckResult], rejected: Path) -> None:
        self.checks = checks
        faults = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.passed)
        super().__init__(
            f"{asset}: {faults}. The rejected output is in {rejected}; the previous one, if any, still stands"
        )


def manifests(profile: Profile) -> ManifestStore:
    """The manifests of a profile on this machine, with those that came along with pulled data."""
    store = ManifestStore(profile.state / "manifests")
    store.adopt(profile.data / "report" / "lineage_manifest" / "manifests")
    return store


def sees(profile: Profile, asset: Asset) -> Profile:
    """The profile as the asset's function gets it: sections outside its list are absent and fail when touched."""
    names = ("name", "seed", "compute", *asset.sections)
    return Profile.model_construct(**{name: getattr(profile, name) for name in names})


def source_paths(profile: Profile, asset: Asset) -> list[Path]:
    """Outside files and folders that the asset reads: corpus files, local checkpoints, embeddings, pairs and labels of
    others."""
    paths: list[str | None] = []
    if asset.reads_source is not None:
        source = getattr(profile.source_pairs, asset.reads_source)
        paths += [source.path, source.images]
    duplicates = profile.source_pairs.duplicates
    if duplicates is not None and asset.reads_source in ("captions", "instructions"):
        paths += [path for source in duplicates.benchmarks.values() for path in (source.path, source.images)]
        models = (duplicates.image_model, duplicates.text_model)
        paths += [model for model in models if model is not None and Path(model).is_dir()]
    if asset.name == "base_models":
        paths += [name for name in (profile.tiny_models.vlm, profile.tiny_models.clip) if Path(name).is_dir()]
    if asset.records == "subset":
        paths += getattr(profile.curated_subsets.subsets, asset.subset).embedding_files
    if asset.makes_pairs is not None:
        paths += profile.preference_data.outside_paths(asset.makes_pairs)
    return [Path(path) for path in dict.fromkeys(paths) if path is not None]


def recipe_of(profile: Profile, asset: Asset, inputs: Mapping[str, Path]) -> Recipe:
    """What the asset's output would be made from now. Raises DataError where an input is missing."""
    dump = profile.model_dump(mode="json")
    return Recipe(
        code_version=code_version(asset.module),
        settings={name: dump[name] for name in ("seed", "compute", *asset.sections)},
        inputs={name: folder_version(folder) for name, folder in inputs.items()},
        sources={path.as_posix(): source_version(path) for path in source_paths(profile, asset)},
    )


def standing(profile: Profile, asset: Asset, store: ManifestStore) -> Manifest | None:
    """The manifest of the output on disk if it was made by today's recipe, else None."""
    folder = asset.folder(profile)
    upstream = {name: ASSETS[name].folder(profile) for name in asset.inputs}
    if not all(path.is_dir() for path in (folder, *upstream.values())):
        return None
    manifest = store.find(asset.name, folder_version(folder))
    return manifest if manifest and manifest.recipe == recipe_of(profile, asset, upstream) else None


def materialize(
    profile: Profile,
    asset: Asset,
    inputs: Mapping[str, Path],
    logger: RunLogger,
    run: Mapping[str, str] | None = None,
    force: bool = False,
) -> Materialization:
    """Builds the asset in a scratch folder, checks it and swaps it in whole; a killed run leaves the old output.

    Args:
        inputs: upstream asset -> its folder.
        run: ids of the runs that this happens in, for the manifest.
        force: compute even where the standing output was made by the same recipe.

    Raises:
        DataError: an input is missing. CheckFailed: the output failed a blocking check and was not swapped in.
    """
    started = time.monotonic()
    store, folder = manifests(profile), asset.folder(profile)
    manifest = None if force else standing(profile, asset, store)
    if manifest is not None:
        _write_metrics(profile, asset, manifest.metrics)
        return Materialization(manifest, folder, reused=True, seconds=time.monotonic() - started)
    recipe = recipe_of(profile, asset, inputs)
    scratch = folder.parent / f".{asset.name}.scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    metrics = asset.load()(inputs, scratch, sees(profile, asset), logger)
    checks = run_checks(asset, scratch, metrics, profile)
    if not all(check.passed for check in checks if check.name not in ADVISORY):
        rejected = folder.parent / f".{asset.name}.rejected"
        shutil.rmtree(rejected, ignore_errors=True)
        scratch.rename(rejected)
        raise CheckFailed(asset.name, checks, rejected)
    _swap(scratch, folder)
    _write_metrics(profile, asset, metrics)
    seconds = time.monotonic() - started
    facts = {**_environment(), **(run or {}), "started": begun, "seconds": f"{seconds:.1f}"}
    manifest = Manifest(
        asset.name, folder_version(folder), recipe, metrics, [check.as_dict() for check in checks], facts
    )
    store.append(manifest)
    return Materialization(manifest, folder, reused=False, seconds=seconds)


def metrics_file(profile: Profile, asset: Asset) -> Path:
    """Where an asset's metrics stand for `dvc metrics` and for people."""
    return Path("metrics") / profile.name / f"{asset.name}.json"


def _swap(scratch: Path, folder: Path) -> None:
    """Puts ``scratch`` in ``folder``'s place. Killed in between, the old output is beside it and the next run makes
    the asset again."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_metrics(profile: Profile, asset: Asset, metrics: Mapping[str, float]) -> None:
    path = metrics_file(profile, asset)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(metrics), indent=1, sort_keys=True, allow_nan=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        scratch = path.with_suffix(".scratch")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)


def _environment() -> dict[str, str]:
    facts: dict[str, Any] = {name: version(name) for name in _LIBRARIES}
    return {**facts, "python": platform.python_version(), **_git()}


def _git() -> dict[str, str]:
    def ask(*words: str) -> str:
        reply = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return reply.stdout.strip() if reply.returncode == 0 else "unknown"

    changed = ask("status", "--porcelain", "--", "rsqa_pipeline", "configs", "constraints.txt")
    return {"git_commit": ask("rev-parse", "HEAD"), "git_changed_files": str(len(changed.splitlines()))}
