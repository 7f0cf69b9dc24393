"""An evidence package against the list of its own files, its signatures, and the project as it stands."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.evidence.file_names import (
    DATA_MANIFEST,
    EVIDENCE,
    MODEL_SIGNATURE,
    PACKAGE_SIGNATURE,
    PUBLIC_KEY,
)
from rsqa_pipeline.evidence.project import file_hashes, models_on_disk, versions_on_disk
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.versions import settings_version

_KEYS = {"profile": str, "assets": dict, "files": dict, "signed": bool, "sha256": str}


def check_evidence(profile: Profile, folder: Path, public_key: Path | None) -> list[Finding]:
    """Files that are missing, changed or added, signatures that do not hold, and versions that are not the project's.

    Args:
        public_key: the signer's key, as it is known from elsewhere; None verifies with the one in the package.

    Raises:
        UsageError: the folder is not a package, or one of another profile, or is signed and `model_signing` is missing.
    """
    stated = _read(folder)
    if stated["profile"] != profile.name:
        raise UsageError(
            f"--evidence: {folder} is about profile {stated['profile']}; give --profile {stated['profile']}"
        )
    there = file_hashes(folder)
    files = {name: sha256 for name, sha256 in there.items() if not name.endswith(".sig") and name != EVIDENCE}
    found = [
        Finding("changed_evidence", name, f"{folder / name} is not as it was written")
        for name in sorted({EVIDENCE, *(name for name in there if name.endswith(".sig"))})
        if not _as_written(folder / name)
    ]
    if stated["sha256"] != settings_version({key: value for key, value in stated.items() if key != "sha256"}):
        found.append(Finding("changed_evidence", EVIDENCE, f"{folder / EVIDENCE} does not have its own sha256"))
    for name, sha256 in stated["files"].items():
        if name not in files:
            found.append(Finding("missing_evidence", name, f"{folder / name} is missing"))
        elif files[name] != sha256:
            found.append(Finding("changed_evidence", name, f"{folder / name} is {files[name]}, recorded was {sha256}"))
    added = [name for name in files if name not in stated["files"]]
    signatures = {name for name in there if name.endswith(".sig")}
    wanted = _signatures(stated)
    added += sorted(signatures - wanted)
    found += [Finding("added_evidence", name, f"{folder / name} was not there") for name in added]
    found += [Finding("missing_evidence", name, f"{folder / name} is missing") for name in sorted(wanted - signatures)]
    if stated["signed"] or public_key is not None:
        found += _check_signatures(profile, folder, wanted & signatures, public_key)
    return found + _check_versions(profile, stated)


def _read(folder: Path) -> dict[str, Any]:
    try:
        stated = json.loads((folder / EVIDENCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--evidence: {folder} has no readable {EVIDENCE}; name a folder of `rsqa evidence`"
        ) from error
    if not isinstance(stated, dict) or not all(isinstance(stated.get(key), kind) for key, kind in _KEYS.items()):
        raise UsageError(f"--evidence: {folder / EVIDENCE} is not as `rsqa evidence` writes it")
    return stated


def _as_written(path: Path) -> bool:
    """Whether a JSON file is byte for byte as this package, or `model_signing`, writes its content."""
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError:
        return False
    if path.name == EVIDENCE:
        return text == (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
    return text == json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _signatures(stated: dict[str, Any]) -> set[str]:
    """Signatures that a signed package has: its own, and one beside each model's data manifest."""
    if not stated["signed"]:
        return set()
    models = [Path(name).parent for name in stated["files"] if name.endswith(DATA_MANIFEST)]
    return {PACKAGE_SIGNATURE, *((folder / MODEL_SIGNATURE).as_posix() for folder in models)}


def _check_signatures(profile: Profile, folder: Path, signatures: set[str], given: Path | None) -> list[Finding]:
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise UsageError("--evidence: a signed package needs the extra audit: pip install 'rsqa-pipeline[audit]'")
    from rsqa_pipeline.evidence.signing import fault_of, fingerprint, published

    found, key = [], given or folder / PUBLIC_KEY
    if not signatures:
        return [Finding("bad_signature", PACKAGE_SIGNATURE, "the package is not signed")]
    models = {model.name: model for model in models_on_disk(profile)}
    try:
        fingerprint(key)
    except DataError as error:
        return [Finding("bad_signature", PUBLIC_KEY, str(error))]
    for name in sorted(signatures):
        documents = (folder / name).parent
        if name == PACKAGE_SIGNATURE:
            fault = fault_of(folder, folder / name, key)
        elif documents.name not in models:
            continue  # its weights are not here: a finding of its own
        else:
            with published(models[documents.name], documents) as whole:
                fault = fault_of(whole, folder / name, key)
        if fault is not None:
            found.append(Finding("bad_signature", name, fault))
    return found


def _check_versions(profile: Profile, stated: dict[str, Any]) -> list[Finding]:
    """The versions that the package states against the records of the outputs on disk."""
    now = versions_on_disk(profile)
    return [
        Finding("stale_evidence", name, f"the package states {stated['assets'].get(name)}, the project {now.get(name)}")
        for name in sorted({*stated["assets"], *now})
        if stated["assets"].get(name) != now.get(name)
    ]
