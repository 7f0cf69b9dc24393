"""`rsqa labels` and `rsqa pairs`: preference pairs out to raters and trainers, raters' choices back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rsqa_pipeline.cli.checks import refuse_bad_out
from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.profile import Profile, default_profile, load_profile
from rsqa_pipeline.records import read_table

labels = typer.Typer(no_args_is_help=True, help="Pairs for people to rate, and how far the judge agrees with them.")
pairs = typer.Typer(no_args_is_help=True, help="Preference pairs for other trainers.")

ASSETS = ("caption_preferences", "instruction_preferences", "text_preferences")
AssetOption = Annotated[str, typer.Option("--asset", help=f"One of {', '.join(ASSETS)}.")]


@labels.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="New folder for labels.csv and the images.")],
    asset: AssetOption = "caption_preferences",
    number: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to rate, drawn by hash.")] = 100,
    profile: ProfileOption = None,
) -> None:
    """Write a sheet for raters: fill in `better` with A, B or equal."""
    from rsqa_pipeline.preference_data.labels import export_labels

    settings = load_profile(profile or default_profile())
    rows = [row for row in _read(settings, asset) if row["chosen_mark"] is not None]
    written = export_labels(rows, out, number, settings.seed)
    typer.echo(f"{written} pairs in {out / 'labels.csv'}")


@labels.command("agreement")
def show_agreement(
    files: Annotated[list[Path], typer.Argument(help="Sheets that raters filled in.")],
    asset: AssetOption = "caption_preferences",
    profile: ProfileOption = None,
) -> None:
    """Compare the judge's choices with the raters': share, Cohen's kappa, 95 % intervals."""
    from rsqa_pipeline.preference_data.labels import agreement, read_labels

    settings = load_profile(profile or default_profile())
    found = read_labels(files)
    measured = agreement(_read(settings, asset), found.labels, settings.seed)
    typer.echo(f"judge agrees with people: {measured.accuracy or 'no pair is decided'}")
    typer.echo(f"Cohen's kappa: {measured.kappa or 'not defined'}")
    between = measured.between_raters
    typer.echo(f"kappa between raters: {'one rater' if between is None else f'{between:.3f}'}")
    typer.echo(
        f"{measured.undecided} undecided, {measured.unknown} of other pairs, {found.empty} not filled in, "
        f"{len(found.faults)} unreadable"
    )
    for fault in found.faults:
        typer.echo(f"  {fault}")


@labels.command("marks")
def show_marks(
    files: Annotated[list[Path], typer.Argument(help="Files downloaded from the page of `rsqa explore`.")],
    explorer: Annotated[Path, typer.Option("--explorer", help="Folder of that page.")],
    out: Annotated[
        Path | None, typer.Option("--pairs", help="Parquet file for pairs of marked texts, in TRL's preference format.")
    ] = None,
) -> None:
    """Compare marks made on the explorer's page with the rule and the score, and make preference pairs of them."""
    from rsqa_pipeline.explorer.build import SAMPLES
    from rsqa_pipeline.explorer.marks import agreement, preference_pairs, read_marks

    if not (explorer / SAMPLES).is_file():
        raise UsageError(f"--explorer: no {explorer / SAMPLES}; name a folder that `rsqa explore` wrote")
    if out is not None:
        refuse_bad_out(out)
    samples = {row["key"]: row for row in read_table(explorer / SAMPLES)}
    found = read_marks(files)
    measured = agreement(samples, found.marks, seed=0)
    correlation = measured.rank_correlation
    typer.echo(f"rule agrees with people: {measured.decisions or 'nothing is decided'}")
    typer.echo(f"Cohen's kappa: {measured.kappa or 'not defined'}")
    typer.echo(f"rank correlation of mark and score: {'not defined' if correlation is None else f'{correlation:.3f}'}")
    typer.echo(
        f"{measured.marked} samples marked, {len(measured.against)} against the rule, {measured.undecided} undecided, "
        f"{measured.unknown} not on the page, {len(found.faults)} unreadable"
    )
    for fault in found.faults:
        typer.echo(f"  {fault}")
    if out is not None:
        from rsqa_pipeline.preference_data.importers.trl_format import write

        written, left_out = write(preference_pairs(samples, found.marks), out)
        typer.echo(f"{written} pairs in {out}, {left_out} left out: their image cannot be read")


@pairs.command("export")
def export_pairs(
    out: Annotated[Path, typer.Argument(help="Parquet file to write, in TRL's vision preference format.")],
    asset: AssetOption = "caption_preferences",
    profile: ProfileOption = None,
) -> None:
    """Write an asset's pairs for TRL: prompt, chosen, rejected, images."""
    from rsqa_pipeline.preference_data.importers.trl_format import write

    written, left_out = write(_read(load_profile(profile or default_profile()), asset), out)
    typer.echo(f"{written} pairs in {out}, {left_out} left out: their image cannot be read")


def _read(settings: Profile, asset: str) -> list[dict[str, Any]]:
    if asset not in ASSETS:
        raise UsageError(f"--asset {asset!r} has no pairs; known: {', '.join(ASSETS)}")
    table = settings.data / "preference_data" / asset / "pairs.parquet"
    if not table.is_file():
        raise DataError(f"no {table}; make it with `rsqa run {asset}` or get it with `dvc pull`")
    return read_table(table)
