"""The pipeline, in order: every stage, and every asset with what it reads, what makes it and which settings it sees.

A *stage* is a folder of the library, a section of the profile and a Dagster group. An *asset* is one output of a stage:
a folder ``data/<profile>/<stage>/<asset>``, a Dagster asset and a DVC stage. The table is built from the profile: each
subset, with the models fine-tuned on it, is a line of the profile. Dagster assets, ``dvc.yaml`` and the output of
``rsqa stages`` are generated from this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset, Stage
from rsqa_pipeline.stages.curation_assets import (
    curated_subsets_assets,
    preference_data_assets,
    score_model_assets,
    source_pairs_assets,
    tiny_models_assets,
)
from rsqa_pipeline.stages.use_assets import benchmarks_assets, finetuned_models_assets, rl_policy_assets

STAGES = {
    stage.name: stage
    for stage in (
        Stage(name="source_pairs", purpose="read, validate, hash and split image-text data", owner="team:data"),
        Stage(
            name="tiny_models",
            purpose="the VLM and the CLIP that everything starts from",
            owner="team:modelling",
            tracked=True,
            retried=True,
        ),
        Stage(
            name="preference_data",
            purpose="candidate texts, judge's marks, chosen/rejected pairs",
            owner="team:data",
            retried=True,
        ),
        Stage(
            name="score_model",
            purpose="learn a scalar score from the pairs, phase by phase",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="curated_subsets",
            purpose="score the corpus, keep the best part, and the baselines' parts",
            owner="team:data",
        ),
        Stage(
            name="finetuned_models",
            purpose="one CLIP and one VLM per subset and seed",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="rl_policy",
            purpose="GRPO with the score model as part of the reward",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="benchmarks",
            purpose="classification, retrieval, VQA, grounding, best of N",
            owner="team:evaluation",
            tracked=True,
        ),
        Stage(name="report", purpose="tables, plots, galleries and the lineage of all of it", owner="team:evaluation"),
    )
}


def assets_of(profile: Profile) -> dict[str, Asset]:
    """Every asset of a profile by name, in an order in which inputs come first."""
    table: list[Asset] = []
    for stage in (
        source_pairs_assets,
        tiny_models_assets,
        preference_data_assets,
        score_model_assets,
        curated_subsets_assets,
        finetuned_models_assets,
        rl_policy_assets,
        benchmarks_assets,
    ):
        table += stage(profile)
    table += _report(table)
    if profile.source_pairs.captions_alone:
        table = _with_captions_alone(table)
    return {asset.name: asset for asset in table}


STAGES_BEYOND_CAPTIONS = ("finetuned_models", "rl_policy", "benchmarks")
ASSETS_BEYOND_CAPTIONS = ("benchmark_sets", "instruction_samples", "instruction_preferences", "curation_report")
"""What a profile with captions alone does not have: nothing to answer and nothing to measure on."""


def _with_captions_alone(table: list[Asset]) -> list[Asset]:
    """The assets that captions alone can make, without the others among their inputs."""
    kept = [
        asset
        for asset in table
        if asset.stage not in STAGES_BEYOND_CAPTIONS and asset.name not in ASSETS_BEYOND_CAPTIONS
    ]
    names = {asset.name for asset in kept}
    return [replace(asset, inputs=tuple(name for name in asset.inputs if name in names)) for asset in kept]


def _report(table: list[Asset]) -> Iterator[Asset]:
    everything = tuple(asset.name for asset in table)
    facts = {asset.name: {"stage": asset.stage, "records": asset.records, "inputs": asset.inputs} for asset in table}
    yield Asset(
        name="curation_report",
        stage="report",
        description="one HTML page: tables, plots, galleries, versions",
        function="report.curation_report:run",
        inputs=everything,
        options={"assets": facts},
        settings=("description", "report", "curated_subsets.subsets", "curated_subsets.main", "finetuned_models.seeds"),
    )
    yield Asset(
        name="lineage_manifest",
        stage="report",
        description="what made each output: versions, settings, code, runs",
        function="lineage.bundle:run",
        inputs=(*everything, "curation_report"),
    )
