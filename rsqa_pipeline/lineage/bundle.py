"""The asset lineage_manifest: the manifests of every output, versioned with the data they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import ManifestStore
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import folder_version


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``manifests/<asset>.jsonl``, one line each: what made the version that is on disk now.

    Times, run ids and the git commit stay in this machine's manifests: equal outputs get an equal bundle, so that
    ``dvc.lock`` does not change when the figures do not.

    Raises:
        DataError: an output has no manifest, so it cannot be traced.
    """
    store, bundle = ManifestStore(settings.state / "manifests"), ManifestStore(out / "manifests")
    for name, folder in inputs.items():
        manifest = store.find(name, folder_version(folder))
        if manifest is None:
            raise DataError(
                f"{folder} was not made by a recorded run or was changed since; make it with `rsqa run {name}`"
            )
        bundle.append(replace(manifest, run={}))
    return {"assets": float(len(inputs))}
