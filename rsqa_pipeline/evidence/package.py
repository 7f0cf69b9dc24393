"""Writes an evidence package: one folder, whole or not at all; equal projects give equal bytes, signatures apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsqa_pipeline import __version__
from rsqa_pipeline.evidence.bom import write_bom
from rsqa_pipeline.evidence.cards import write_data_card, write_model_card
from rsqa_pipeline.evidence.datasets import write_dataset
from rsqa_pipeline.evidence.facts import data_facts, model_facts, rule_of
from rsqa_pipeline.evidence.figures import figures_of
from rsqa_pipeline.evidence.file_names import BOM, EVIDENCE, MODEL_SIGNATURE, PROV, PUBLIC_KEY
from rsqa_pipeline.evidence.index import INDEX, index_page
from rsqa_pipeline.evidence.pages import write_pages
from rsqa_pipeline.evidence.project import Project, file_hashes
from rsqa_pipeline.evidence.signing import (
    fingerprint,
    read_key,
    sign_model,
    sign_package,
    write_public_key,
)
from rsqa_pipeline.lineage.export.w3c_prov import write_prov
from rsqa_pipeline.versions import settings_version


def write_package(project: Project, out: Path, key: Path | None, report: Callable[[str], None]) -> None:
    """Writes the package into ``out``, a new or empty folder.

    It is made beside ``out`` and moved there when it is whole; what a killed run left is removed by the next.

    Args:
        key: private key to sign with; None writes an unsigned package, and says so in the index.
        report: gets a line per finished part.

    Raises:
        UsageError: the key cannot be used; nothing was written.
        DataError: a document does not pass its validator; nothing was written.
    """
    private = None if key is None else read_key(key)
    scratch = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        signed = None
        if private is not None:
            write_public_key(private, scratch / PUBLIC_KEY)
            signed = fingerprint(scratch / PUBLIC_KEY)
        _write_documents(project, scratch, key, report)
        (scratch / INDEX).write_text(index_page(project, signed), encoding="utf-8")
        write_pages(scratch)
        _write_evidence(project, scratch)
        if key is not None:
            sign_package(scratch, key)
        if out.is_dir():
            out.rmdir()
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_documents(project: Project, out: Path, key: Path | None, report: Callable[[str], None]) -> None:
    for subset in project.subsets:
        folder, facts = out / "datasets" / subset, data_facts(project, subset)
        folder.mkdir(parents=True)
        write_dataset(project, subset, facts, folder)
        write_data_card(project, subset, facts, folder)
        report(f"data set {subset}")
    for model in project.models:
        folder, facts = out / "models" / model.name, model_facts(project, model)
        folder.mkdir(parents=True)
        rule = rule_of(project, facts)
        signature = "none" if key is None else f"[{MODEL_SIGNATURE}]({MODEL_SIGNATURE})"
        history = f"[{PROV}](../../{PROV}) holds"
        write_model_card(project, model, facts, figures_of(project, model.asset), rule, signature, history, folder)
        if key is not None:
            sign_model(model, folder, key)
        report(f"model {model.name}")
    report(f"bill of materials, {write_bom(project, out / BOM)} components")
    report(f"history, {write_prov(project.profile.name, project.records, out / PROV)} statements")


def _write_evidence(project: Project, out: Path) -> None:
    """Writes EVIDENCE: what the package is about, the sha256 of all its files but signatures, and of its own facts."""
    hashes = file_hashes(out)
    evidence: dict[str, Any] = {
        "profile": project.profile.name,
        "commit": project.commit,
        "software": f"rsqa-pipeline {__version__}",
        "assets": project.versions(),
        "files": {name: sha256 for name, sha256 in hashes.items() if not name.endswith(".sig")},
        "signed": (out / PUBLIC_KEY).is_file(),
    }
    evidence["sha256"] = settings_version(evidence)
    (out / EVIDENCE).write_text(json.dumps(evidence, indent=1, sort_keys=True) + "\n", encoding="utf-8")
