"""`rsqa audit`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import default_profile, load_profile


def audit(
    profile: ProfileOption = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Folder of `rsqa evidence`, to compare with its own list too.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="With --evidence: the signer's key. Default: the one in the folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Recompute every hash, and check that files, records, dvc.lock, Dagster and MLflow agree.

    Works offline and writes nothing. Exit code 1 where something contradicts.
    """
    from rsqa_pipeline.audit.audit import audit as compare
    from rsqa_pipeline.audit.evidence import check_evidence

    if public_key is not None and evidence is None:
        raise UsageError("--public-key goes with --evidence")
    settings = load_profile(profile or default_profile())
    disagreeing = [] if evidence is None else check_evidence(settings, evidence, public_key)
    outcome = compare(settings)
    outcome = replace(outcome, findings=sorted({*outcome.findings, *disagreeing}))
    if as_json:
        typer.echo(json.dumps(asdict(outcome), indent=1, sort_keys=True))
    else:
        console = make_console()
        if outcome.findings:
            table = plain_table("finding", "where", "what")
            for finding in outcome.findings:
                table.add_row(finding.kind, finding.where, finding.detail)
            console.print(table)
        for name in outcome.unchecked:
            console.print(f"not compared: there is no {name} here")
        unlinked = outcome.records - outcome.linked
        console.print(f"{outcome.assets} assets, {outcome.records} records, {unlinked} of them unlinked")
        counts = Counter(finding.kind for finding in outcome.findings)
        summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        console.print(f"findings: {summary}" if summary else "no findings: all records agree")
    if outcome.findings:
        raise typer.Exit(1)
