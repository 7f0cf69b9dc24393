"""Stage ``report``, asset ``curation_report``: one HTML page with every result, plot, gallery and version of a run.

The page is one file: images and styles are embedded, nothing is fetched, and the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rsqa_pipeline.compared import Compared
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.report import (
    best_of_n,
    claims,
    curation,
    downstream,
    gallery,
    headline,
    preferences,
    provenance,
    reinforcement,
)
from rsqa_pipeline.report.blocks import ReportSection
from rsqa_pipeline.report.reading import corpus
from rsqa_pipeline.report.training import finetuning_curves
from rsqa_pipeline.tracking.run_logger import RunLogger

TEMPLATES = Path(__file__).with_name("templates")


def run(
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    *,
    assets: provenance.AssetFacts,
) -> Metrics:
    """Writes ``index.html``.

    Args:
        inputs: every asset's folder.
        out: empty folder.
        settings: section ``report`` sets the size of the gallery.

    Returns:
        ``sections`` of the page.

    Raises:
        FileNotFoundError: a file that the page shows is missing from an asset's folder.
    """
    sections = build(inputs, settings, assets)
    page = render(sections, settings.name, settings.description, _sizes(inputs))
    (out / "index.html").write_text(page, encoding="utf-8")
    metrics = {"sections": float(len(sections))}
    logger.log_metrics(metrics)
    return metrics


def build(inputs: Mapping[str, Path], settings: Profile, assets: provenance.AssetFacts) -> list[ReportSection]:
    """The page's sections in order."""
    compared = Compared.of(settings)
    models = downstream.section(inputs, compared)
    frame = corpus(inputs, compared.subsets)
    return [
        headline.section(inputs, frame, compared, settings.seed),
        claims.section(inputs, compared),
        preferences.section(inputs),
        curation.section(inputs, frame, compared, settings.seed),
        gallery.section(inputs, frame, settings.report.gallery_size),
        ReportSection(
            models.name, models.title, [*models.blocks, finetuning_curves(inputs, compared)], lead=models.lead
        ),
        best_of_n.section(inputs, compared),
        reinforcement.reward_section(inputs),
        provenance.quality_section(inputs, assets),
        provenance.lineage_section(inputs, assets),
    ]


def render(sections: Sequence[ReportSection], profile: str, description: str, sizes: str) -> str:
    """The page as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("index.jinja")
    return template.render(sections=sections, profile=profile, description=description, sizes=sizes)


def _sizes(inputs: Mapping[str, Path]) -> str:
    vlm, clip = (provenance.parameters(inputs["base_models"], kind) for kind in ("vlm", "clip"))
    return f"VLM {vlm}, CLIP {clip}"
