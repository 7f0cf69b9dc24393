"""`rsqa trace`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.lineage.trace import TraceNode
from rsqa_pipeline.lineage.trace import trace as follow
from rsqa_pipeline.profile import Profile, default_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_mlflow
from rsqa_pipeline.stages import assets_of

_SHOWN = 10
"""Rows of a table in the terminal; JSON and HTML have all."""


def trace(
    target: Annotated[
        str,
        typer.Argument(
            help="An asset, ASSET/METRIC, an MLflow run, or a registered model: models:/NAME@ALIAS or "
            "models:/NAME/NUMBER. With --forward a sample, image, source, captioner, judge or model version."
        ),
    ],
    profile: ProfileOption = None,
    onward: Annotated[bool, typer.Option("--forward", help="Show what the target touched instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write one HTML page with every row.")] = None,
) -> None:
    """Show what an asset or a registered model was made from, up to the sources and down to the row.

    Exit code 3 where a file or folder on disk is not the recorded version.
    """
    if html is not None and not html.parent.is_dir():
        raise UsageError(f"--html {html}: no folder {html.parent}; make it first")
    settings = load_profile(profile or default_profile())
    if onward:
        _forward(settings, target, as_json, html)
        return
    asset, version, facts = _resolve(settings, target)
    root = follow(settings, asset, version)
    faults = root.mismatches()
    samples, pairs, reason = _rows(settings, root)
    found = {
        **facts,
        "trace": root.as_dict(),
        "mismatches": [[n.name, n.version, n.on_disk] for n in faults],
        "rows": reason,
    }
    if html is not None:
        _write_page(html, target, root, samples, pairs, reason)
    if as_json:
        _print_json(found, samples, pairs)
    else:
        _print(root, facts, samples, pairs, reason, faults)
    if faults:
        raise typer.Exit(3)


def _resolve(settings: Profile, target: str) -> tuple[str, str | None, dict[str, Any]]:
    """Asset and version (None: the one on disk) that a target means, and what else is known of it."""
    if target.startswith("models:/"):
        from rsqa_pipeline.registration import find_registered
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking

        refuse_silent_mlflow()
        model = find_registered(settings, MlflowTracking(settings), _registered(settings, target))
        return model["asset"], model["data_version"], {"model": model}
    store = manifests(settings)
    if re.fullmatch("[0-9a-f]{32}", target):
        for name in assets_of(settings):
            for made in store.history(name):
                if made.run.get("mlflow_run") == target:
                    return name, made.data_version, {"model": None, "mlflow_run": target}
        raise DataError(f"no record of profile {settings.name} names the MLflow run {target}")
    asset, _, metric = target.partition("/")
    if not metric or asset not in assets_of(settings):
        return target, None, {"model": None}
    version = follow(settings, asset).version
    record = store.find(asset, version)
    if record is None or metric not in record.metrics:
        known = ", ".join(sorted(record.metrics)) if record else "none"
        raise UsageError(f"{asset} has no metric {metric!r}; known: {known}")
    return asset, version, {"model": None, "figure": {"metric": metric, "value": record.metrics[metric]}}


def _registered(settings: Profile, target: str) -> str:
    """``models:/vlm@champion`` and ``models:/clip@champion`` mean the model of the profile's main subset."""
    for kind in ("vlm", "clip"):
        if target == f"models:/{kind}@champion":
            return f"models:/{kind}_{settings.curated_subsets.main}@challenger"
    return target


def _rows(settings: Profile, root: TraceNode) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    from rsqa_pipeline.lineage.rows import preference_pairs, training_samples, unresolved

    try:
        samples, pairs = training_samples(settings, root), preference_pairs(settings, root)
    except DataError as error:
        return pd.DataFrame(), pd.DataFrame(), str(error)
    missing = unresolved(samples)
    return samples, pairs, f"{len(samples)} training samples, {missing} with a missing link; {len(pairs)} pairs"


def _print_json(found: dict[str, Any], samples: pd.DataFrame, pairs: pd.DataFrame) -> None:
    from rsqa_pipeline.lineage.json_rows import json_with_rows

    for part in json_with_rows(found, {"pairs": pairs, "samples": samples}):
        typer.echo(part, nl=False)
    typer.echo()


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _print(
    root: TraceNode, facts: dict[str, Any], samples: pd.DataFrame, pairs: pd.DataFrame, reason: str, faults: list[Any]
) -> None:
    from rsqa_pipeline.cli.lineage_tree import lineage_tree

    console, model = make_console(), facts["model"]
    title = f"{model['model']} version {model['version']}, weights {model['weights_version'][:12]}" if model else None
    console.print(lineage_tree(root, title))
    if "figure" in facts:
        console.print(f"{facts['figure']['metric']} = {facts['figure']['value']}")
    for rows, columns in (
        (samples, ("sample_id", "source", "source_row", "score_model", "rank", "rule")),
        (pairs, ("pair_id", "chosen_source", "rejected_source", "judge", "chosen_mark", "rejected_mark")),
    ):
        if len(rows):
            table = plain_table(*columns)
            for row in _records(rows.head(_SHOWN)[list(columns)]):
                table.add_row(row[columns[0]][:12], *(_cell(row[name]) for name in columns[1:]))
            console.print(table)
    console.print(f"{reason}; --json and --html list all" if len(samples) or len(pairs) else reason)
    for node in faults:
        console.print(f"on disk: {node.name} {node.on_disk}, recorded {node.version}", style="red")
    if not faults:
        console.print("every file and folder on disk is the recorded version")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_page(
    html: Path, target: str, root: TraceNode, samples: pd.DataFrame, pairs: pd.DataFrame, reason: str
) -> None:
    from rsqa_pipeline.lineage.page import page
    from rsqa_pipeline.lineage.rows import nodes_of

    assets = [
        {
            "asset": node.name,
            "version": node.version,
            "on disk": node.on_disk,
            "code": node.details["code_version"][:12],
            "git": node.details["run"].get("git_commit", "")[:12],
            "made": node.details["run"].get("started"),
        }
        for node in nodes_of(root).values()
        if "code_version" in node.details
    ]
    shown = ["kind", "sample_id", "image_id", "source", "source_file", "source_row", "score_model", "rank", "rule"]
    listed = _records(samples[shown]) if len(samples) else []
    facts = {"asset": root.name, "version": root.version, "rows": reason}
    tables = {"Assets": assets, "Training samples": listed, "Preference pairs": _records(pairs)}
    html.write_text(page(f"Lineage of {target}", facts, tables), encoding="utf-8")


def _forward(settings: Profile, target: str, as_json: bool, html: Path | None) -> None:
    from rsqa_pipeline.lineage.forward import forward

    found = forward(settings, target)
    counted = ("samples", "pairs", "items", "scores", "subsets")
    rows = [
        {"what": what, "asset": name, "rows": len(ids)} for what in counted for name, ids in found[what].items()
    ] + [{"what": "models", "asset": name, "rows": count} for name, count in found["models"].items()]
    rebuild = [{"asset": name, "last seconds": seconds} for name, seconds in found["rebuild"].items()]
    total = sum(seconds or 0 for seconds in found["rebuild"].values())
    cost = f"{len(rebuild)} assets to rebuild without it; the timed ones took {total:.0f} s"
    if html is not None:
        from rsqa_pipeline.lineage.page import page

        ids = [
            {"what": what, "asset": name, "id": key}
            for what in ("samples", "pairs")
            for name, keys in found[what].items()
            for key in keys
        ]
        tables = {"Touched": rows, "To rebuild": rebuild, "Samples and pairs": ids}
        html.write_text(page(f"What {target} touched", {"cost": cost}, tables), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(found, indent=1, sort_keys=True))
        return
    table = plain_table("touched", "asset", "rows")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = make_console()
    console.print(table)
    console.print(f"reports: {', '.join(found['reports']) or 'none'}")
    console.print(f"{cost}: {', '.join(found['rebuild'])}")
