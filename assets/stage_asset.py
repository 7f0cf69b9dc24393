"""The decorator that gives an asset what the table of stages says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from rsqa_pipeline.data_quality.checks import ADVISORY, check_names
from rsqa_pipeline.stages import ASSETS, Asset
from rsqa_pipeline.versions import code_version

OWNERS = {
    "source_pairs": "team:data",
    "preference_data": "team:data",
    "curated_subsets": "team:data",
    "tiny_models": "team:modelling",
    "score_model": "team:modelling",
    "finetuned_models": "team:modelling",
    "rl_policy": "team:modelling",
    "benchmarks": "team:evaluation",
    "report": "team:evaluation",
}

_RETRY = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)


def stage_asset(
    name: str, ins: Mapping[str, dg.AssetIn] | None = None
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Asset ``name`` of the table: group, description, kinds, owner, code version, pool, checks.

    Args:
        ins: argument -> upstream asset, where an argument is not named like its asset.
    """
    asset = ASSETS[name]
    return dg.asset(
        name=name,
        ins=ins,
        group_name=asset.stage,
        description=asset.description,
        kinds=_kinds(asset),
        owners=[OWNERS[asset.stage]],
        code_version=code_version(asset.module)[:12],
        pool="gpu" if asset.gpu else None,
        # Only stages that ask a hub or a judge's server can fail for a while and then work.
        retry_policy=_RETRY if asset.stage in ("tiny_models", "preference_data") else None,
        check_specs=[
            dg.AssetCheckSpec(check, asset=name, blocking=check not in ADVISORY) for check in check_names(asset)
        ],
        io_manager_key="folder",
    )


def _kinds(asset: Asset) -> set[str]:
    if asset.stage == "report":
        return {"python", "html" if asset.name == "curation_report" else "json"}
    return {"python", "pytorch"} if asset.gpu else {"python", "parquet"}
