"""Image-text data: read, validate, hash, split."""

from pathlib import Path

import dagster as dg

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("benchmark_sets")
def benchmark_sets(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Materialized:
    yield from pipeline.materialize(context)


@stage_asset("image_text_pairs")
def image_text_pairs(context: dg.AssetExecutionContext, pipeline: Pipeline, benchmark_sets: Path) -> Materialized:
    yield from pipeline.materialize(context, benchmark_sets=benchmark_sets)


@stage_asset("instruction_samples")
def instruction_samples(context: dg.AssetExecutionContext, pipeline: Pipeline, benchmark_sets: Path) -> Materialized:
    yield from pipeline.materialize(context, benchmark_sets=benchmark_sets)
