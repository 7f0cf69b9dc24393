"""`rsqa lineage`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from rsqa_pipeline.cli.checks import refuse_bad_out
from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import default_profile, load_profile

lineage = typer.Typer(no_args_is_help=True, help="The records of all runs.")


@lineage.callback()
def _group() -> None:
    """The records of all runs."""


def refuse_missing_extra(command: str, *modules: str) -> None:
    """Refuses a command whose packages, the extra ``audit``, are not installed."""
    if any(find_spec(module) is None for module in modules):
        raise UsageError(f"{command} needs the extra audit: pip install 'rsqa-pipeline[audit]'")


@lineage.command()
def export(
    form: Annotated[
        Literal["openlineage", "prov", "sqlite"],
        typer.Option("--format", help="OpenLineage events (JSON lines), W3C PROV JSON, or a SQLite database."),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write; an existing one is not replaced.")],
    profile: ProfileOption = None,
) -> None:
    """Write all records of a profile in a format that other tools read."""
    refuse_missing_extra("rsqa lineage export", "openlineage", "prov")
    refuse_bad_out(out)
    if out.exists():
        raise UsageError(f"--out: {out} exists; name a new file")
    from rsqa_pipeline.lineage.recorded import all_records

    settings = load_profile(profile or default_profile())
    known = all_records(settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.unfinished")
    scratch.unlink(missing_ok=True)
    left_out = 0
    try:
        if form == "openlineage":
            from rsqa_pipeline.lineage.export.openlineage import write_openlineage

            count, left_out = write_openlineage(settings, known, scratch)
            what = "events"
        elif form == "prov":
            from rsqa_pipeline.lineage.export.w3c_prov import write_prov

            count, what = write_prov(settings.name, known, scratch), "statements"
        else:
            from rsqa_pipeline.lineage.export.sqlite import write_sqlite

            count, what = write_sqlite(known, scratch), "records"
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
    typer.echo(f"{count:,} {what}: {out}")
    if left_out:
        typer.echo(f"{left_out:,} records have no event: they came with pulled data and have no time")
