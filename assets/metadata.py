"""How an output shows in the Dagster UI."""

from __future__ import annotations

import base64
import os
import string
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from rsqa_pipeline.data_quality.checks import ADVISORY, CheckResult
from rsqa_pipeline.data_quality.tables import MAIN_TABLE
from rsqa_pipeline.materialization.materialize import Materialization
from rsqa_pipeline.stages.asset import Asset

REPORT = "curation_report"
REPORT_PATH = "/report"
"""Where `assets.webserver` serves the report."""
MLFLOW_ADDRESS = "RSQA_MLFLOW_UI"
"""Environment variable with the address of MLflow, set by `rsqa ui`."""

COST = ("cpu_seconds", "peak_memory_mib", "peak_gpu_memory_mib")
"""What the making of the output took, as its manifest says; also where this run found it unchanged."""

_ROWS_SHOWN = 5
_CELL_CHARACTERS = 200
_MARKDOWN = frozenset(string.punctuation) - frozenset(",;=%/'\"? ")
"""Signs with a meaning in Markdown or HTML; ``:`` and ``.`` too, since bare addresses become links."""


def check_result(asset: Asset, check: CheckResult | dict[str, Any]) -> dg.AssetCheckResult:
    """A stored or fresh data-quality result as a Dagster check result."""
    fields = check if isinstance(check, dict) else check.as_dict()
    return dg.AssetCheckResult(
        asset_key=asset.name,
        check_name=fields["name"],
        passed=fields["passed"],
        severity=dg.AssetCheckSeverity.WARN if fields["name"] in ADVISORY else dg.AssetCheckSeverity.ERROR,
        metadata={"detail": fields["detail"], **fields["facts"]},
    )


def output_metadata(asset: Asset, done: Materialization) -> dict[str, Any]:
    """Counts, metrics, versions, the first rows of the main tables and the plots of an output."""
    manifest = done.manifest
    metadata: dict[str, Any] = {
        "path": dg.MetadataValue.path(str(done.folder.resolve())),
        "computed": not done.reused,
        "seconds": done.seconds,
        **{name: float(manifest.run[name]) for name in COST if name in manifest.run},
        "code_version": manifest.recipe.code_version[:12],
        **{name: value for name, value in manifest.run.items() if name in ("git_commit", "mlflow_run")},
    }
    if "mlflow_run" in manifest.run and MLFLOW_ADDRESS in os.environ:
        address = f"{os.environ[MLFLOW_ADDRESS]}/#/runs/{manifest.run['mlflow_run']}"
        metadata["mlflow"] = dg.MetadataValue.url(address)
    if asset.name == REPORT:
        metadata["report"] = dg.MetadataValue.url(f"{REPORT_PATH}/index.html")
    tables = [path for path in sorted(done.folder.glob("*.parquet")) if path.name != "quarantine.parquet"]
    for path in tables:
        metadata[path.stem] = dg.MetadataValue.md(_first_rows(path))
    main = done.folder / MAIN_TABLE.get(asset.records or "", "")
    counted = [main] if main in tables else tables
    if counted:
        metadata["dagster/row_count"] = max(pq.read_metadata(path).num_rows for path in counted)
    for plot in sorted((done.folder / "plots").glob("*.png")):
        data = base64.b64encode(plot.read_bytes()).decode()
        metadata[f"plot/{plot.stem}"] = dg.MetadataValue.md(f"![{plot.stem}](data:image/png;base64,{data})")
    metadata |= {f"metric/{name}": value for name, value in sorted(manifest.metrics.items())}
    return metadata


def _first_rows(path: Path) -> str:
    table = pq.ParquetFile(path)
    batch = next(table.iter_batches(_ROWS_SHOWN), None)
    names = table.schema_arrow.names
    rows = batch.to_pylist() if batch is not None else []
    lines = ["| " + " | ".join(map(_cell, names)) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    """A value as text in a table of Markdown: its marks, HTML and links are shown, not acted on."""
    text = " ".join(str(value)[:_CELL_CHARACTERS].split())
    return "".join(f"&#{ord(sign)};" if sign in _MARKDOWN else sign for sign in text)
