"""The command line, `rsqa`. Errors a user can solve are printed without a traceback and set the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from rsqa_pipeline import __version__
from rsqa_pipeline.cli import audit as audit_command
from rsqa_pipeline.cli import curate as curate_command
from rsqa_pipeline.cli import evidence as evidence_command
from rsqa_pipeline.cli import explore as explore_command
from rsqa_pipeline.cli import forget as forget_command
from rsqa_pipeline.cli import init as init_command
from rsqa_pipeline.cli import lineage as lineage_commands
from rsqa_pipeline.cli import models as models_command
from rsqa_pipeline.cli import preferences as preference_commands
from rsqa_pipeline.cli import retrain as retrain_command
from rsqa_pipeline.cli import score as score_command
from rsqa_pipeline.cli import serve as serve_command
from rsqa_pipeline.cli import trace as trace_command
from rsqa_pipeline.cli import ui as ui_command
from rsqa_pipeline.cli.checks import refuse_missing_gpu
from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.processes import INTERRUPTED, stop_signals
from rsqa_pipeline.cli.run import run_assets
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import RsqaError, UsageError, storage_error
from rsqa_pipeline.profile import Profile, default_profile, limited_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_mlflow, refuse_silent_services
from rsqa_pipeline.stages import STAGES, assets_of
from rsqa_pipeline.stages.asset_names import in_stage, select

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(preference_commands.labels, name="labels")
app.add_typer(lineage_commands.lineage, name="lineage")
app.add_typer(preference_commands.pairs, name="pairs")
app.command()(init_command.init)
app.command()(curate_command.curate)
app.command()(curate_command.drift)
app.command()(retrain_command.retrain)
app.command()(audit_command.audit)
app.command()(forget_command.forget)
app.command()(evidence_command.evidence)
app.command()(explore_command.explore)
console = make_console()

LimitOption = Annotated[
    int | None,
    typer.Option("--limit", help="At most this many images a split (>= 30): a smoke run, with folders of its own."),
]


def _profile(name: str | None, limit: int | None = None) -> tuple[str, Profile]:
    name = name or default_profile()
    if limit is not None:
        name = str(limited_profile(name, limit))
    return name, load_profile(name)


@app.command()
def run(
    assets: Annotated[list[str] | None, typer.Argument(help="Assets or stages; none means all.")] = None,
    profile: ProfileOption = None,
    limit: LimitOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute even what is unchanged, without scores of earlier runs.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the run's log as it grows, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the last line and errors only.")] = False,
) -> None:
    """Make assets through Dagster: what is missing or stale, then the result table.

    A run that was stopped or killed is resumed by the same command, after the last finished asset. Exit code 130
    after Ctrl-C or SIGTERM.
    """
    names = select(_profile(profile)[1], assets or [])
    refuse_silent_services()  # both before --limit writes its profile
    name, settings = _profile(profile, limit)
    refuse_missing_gpu(settings.compute.device, f"profile {settings.name}: compute.device")
    outcome = run_assets(settings, name, names, force, console, verbose, quiet)
    if not quiet:
        from rsqa_pipeline.report.console import print_results  # pandas: not needed by other commands

        print_results(settings, console)
    console.print(
        f"{len(outcome.computed)} assets computed, {len(outcome.unchanged)} unchanged, "
        f"{len(outcome.recorded)} recorded in dvc.lock; profile {settings.name}"
    )
    if not quiet:
        console.print(f"log: {outcome.log}", soft_wrap=True)


app.command()(models_command.models)
app.command()(trace_command.trace)
app.command("score")(score_command.score)
app.command("serve")(serve_command.serve)
app.command()(ui_command.ui)


@app.command()
def promote(profile: ProfileOption = None) -> None:
    """Make the newest score model the champion, if it is not worse than the standing one and passes every probe.

    Both score the same held-out pairs. The decision and its numbers are stored with the model's version. Exit code 4
    where the challenger is refused.
    """
    from rsqa_pipeline.materialization.materialize import writing

    _, settings = _profile(profile)
    refuse_silent_mlflow()
    with writing(settings, "rsqa promote"):  # a refused command does not wait for the imports
        from rsqa_pipeline.registration import describe_versions, find_registered, register_if_missing
        from rsqa_pipeline.score_model.evaluation.promotion import promote as compare
        from rsqa_pipeline.tracking.mlflow_logger import PROMOTED_MODEL, MlflowTracking

        tracking = MlflowTracking(settings)
        register_if_missing(settings, tracking, PROMOTED_MODEL)
        for alias in ("challenger", "champion"):
            if tracking.version_at(PROMOTED_MODEL, alias) is not None:
                find_registered(settings, tracking, f"models:/{PROMOTED_MODEL}@{alias}")
        describe_versions(settings, tracking, PROMOTED_MODEL)
        version, decision = compare(settings, tracking)
    console.print(f"score_model version {version}: {'promoted to champion' if decision.promoted else 'refused'}")
    for reason in decision.reasons:
        console.print(f"  {reason}")
    if not decision.promoted:
        raise typer.Exit(4)


@app.command()
def stages(
    profile: ProfileOption = None,
    dvc: Annotated[bool, typer.Option("--dvc", help="Print the profile's dvc.yaml.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Print a picture of them as SVG.")] = False,
) -> None:
    """List the stages and their assets in order."""
    if dvc and svg:
        raise UsageError("give either --dvc or --svg")
    name, settings = _profile(profile)
    if dvc:
        from rsqa_pipeline.dvc_files.stages import dvc_yaml

        typer.echo(dvc_yaml(name, settings), nl=False)
        return
    if svg:
        from rsqa_pipeline.cli.stages_diagram import stages_svg

        typer.echo(stages_svg(assets_of(settings)), nl=False)
        return
    tree = Tree("rsqa-pipeline")
    assets = assets_of(settings)
    for stage in STAGES.values():
        branch = tree.add(Text.assemble((stage.name, "bold"), f"  {stage.purpose}"))
        for asset in in_stage(assets, stage.name):
            branch.add(Text.assemble(f"{asset.name}  ", (asset.description, "dim")))
    console.print(tree)


@app.command()
def plan(
    assets: Annotated[list[str] | None, typer.Argument(help="Assets or stages; none means all.")] = None,
    profile: ProfileOption = None,
    limit: LimitOption = None,
    size: Annotated[
        bool, typer.Option("--size", help="Estimate samples, tokens, FLOPs, memory, time and disk of each asset.")
    ] = False,
    gpu: Annotated[str, typer.Option(help="With --size: the card, by its name in sizing/hardware.yaml.")] = "H100",
) -> None:
    """Show what `rsqa run` would make and why (data, code or settings), and what that took last time.

    With --size: how large all of it is, by formulas, before any data is there.
    """
    from rsqa_pipeline.cli.plan import print_plan, print_size, profile_without_data

    if size:
        if limit is not None:
            raise UsageError("--size estimates the whole profile; leave --limit out")
        whole = profile_without_data(profile or default_profile())
        print_size(whole, select(whole, assets or []), gpu, console)
        return
    names = select(_profile(profile)[1], assets or [])
    print_plan(_profile(profile, limit)[1], names, console)


@app.command()
def doctor() -> None:
    """Show what this machine offers: Python, cores, memory, disk, GPU, optional extras, git."""
    from rsqa_pipeline.cli.plan import print_doctor

    print_doctor(console)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rsqa-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Learn what good remote-sensing image-text data is, keep the best part, and show whether models gain from it."""


@app.command("pretrain-tiny")
def pretrain_tiny(
    out: Annotated[Path, typer.Option(help="Folder for vlm_expert/, vlm/ and clip/; a killed run in it is resumed.")],
) -> None:
    """Pre-train the shipped tiny VLMs and CLIP on procedural scenes (about an hour on 2 cores)."""
    from rsqa_pipeline.tiny_models.pretrain import pretrain_tiny as pretrain
    from rsqa_pipeline.tracking.run_logger import SilentLogger

    figures = pretrain(out, logger=SilentLogger())
    table = plain_table("measure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)


def main() -> None:
    """Entry point: prints a user's error in one piece and exits with its code."""
    errors = make_console(stderr=True)
    try:
        with stop_signals():
            code = app(standalone_mode=False)
    except RsqaError as error:
        errors.print(f"error: {error}", style="red", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except typer.TyperException as error:  # a bad option or argument; without a message the help has been printed
        if message := " ".join(error.format_message().split()):
            errors.print(f"error: {message}", style="red", soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        known = storage_error(error)
        if known is None:
            raise
        errors.print(f"error: {known}", style="red", soft_wrap=True)
        raise SystemExit(known.exit_code) from None
    if code == INTERRUPTED:  # also returned by typer after a KeyboardInterrupt
        errors.print("stopped; run the same command again to resume", style="red", soft_wrap=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
