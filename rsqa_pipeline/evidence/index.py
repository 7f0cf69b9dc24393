"""The index of a package: its documents, and which question of the EU AI Act each of them answers."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from rsqa_pipeline import __version__
from rsqa_pipeline.evidence.cards import render
from rsqa_pipeline.evidence.project import Project

INDEX = "index.md"
LINKS = {
    "models": "[model cards](#models)",
    "data": "[data cards and Croissant](#data-sets)",
    "bom": "[bill of materials](bom.json)",
    "prov": "[history](prov.json)",
    "evidence": "[hashes](evidence.json)",
    "versions": "[versions](#versions)",
}
"""Documents that a question may name."""


def questions() -> list[dict[str, Any]]:
    """Entries of questions.yaml: point, question, documents (keys of LINKS), here, operator."""
    source = files("rsqa_pipeline.evidence") / "questions.yaml"
    found: list[dict[str, Any]] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return found


def index_page(project: Project, signed: str | None) -> str:
    """The index as Markdown.

    Args:
        signed: fingerprint of the key; None for an unsigned package.
    """
    newest = project.newest
    unknown = "a time that is not known here: the records came with pulled data"
    return render(
        "index.jinja",
        project=project,
        signed=signed,
        version=__version__,
        newest=unknown if newest is None else newest.isoformat(" ", "seconds"),
        questions=questions(),
        links=LINKS,
    )
