"""One CLIP and one VLM for each subset."""

from pathlib import Path

import dagster as dg

from rsqa_pipeline.stages import SUBSETS

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


def clip(name: str) -> dg.AssetsDefinition:
    """The CLIP fine-tuned on one subset."""

    @stage_asset(f"clip_{name}", ins={"subset": dg.AssetIn(f"subset_{name}")})
    def finetuned_clip(
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        subset: Path,
        image_text_pairs: Path,
        base_models: Path,
    ) -> Materialized:
        folders = {f"subset_{name}": subset, "image_text_pairs": image_text_pairs, "base_models": base_models}
        yield from pipeline.materialize(context, **folders)

    return finetuned_clip


def vlm(name: str) -> dg.AssetsDefinition:
    """The VLM fine-tuned on one subset."""

    @stage_asset(f"vlm_{name}", ins={"subset": dg.AssetIn(f"subset_{name}")})
    def finetuned_vlm(
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        subset: Path,
        image_text_pairs: Path,
        instruction_samples: Path,
        base_models: Path,
    ) -> Materialized:
        corpus = {"image_text_pairs": image_text_pairs, "instruction_samples": instruction_samples}
        yield from pipeline.materialize(context, **{f"subset_{name}": subset}, **corpus, base_models=base_models)

    return finetuned_vlm


clips = [clip(name) for name in SUBSETS]
vlms = [vlm(name) for name in SUBSETS]
