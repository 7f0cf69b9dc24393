"""The command line, `rsqa`. Errors a user can solve are printed without a traceback and set the exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from rsqa_pipeline import __version__
from rsqa_pipeline.asset_names import in_stage, select
from rsqa_pipeline.cli import curate as curate_command
from rsqa_pipeline.cli import explore as explore_command
from rsqa_pipeline.cli import init as init_command
from rsqa_pipeline.cli import preferences as preference_commands
from rsqa_pipeline.cli import score as score_command
from rsqa_pipeline.cli.checks import refuse_missing_gpu
from rsqa_pipeline.cli.processes import INTERRUPTED, stop_group, stop_signals
from rsqa_pipeline.cli.run import run_assets
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import RsqaError, UsageError, storage_error
from rsqa_pipeline.profile import Profile, default_profile, limited_profile, load_profile
from rsqa_pipeline.stages import STAGES, assets_of

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(preference_commands.labels, name="labels")
app.add_typer(preference_commands.pairs, name="pairs")
app.command()(init_command.init)
app.command()(curate_command.curate)
app.command()(curate_command.drift)
app.command()(explore_command.explore)
console = make_console()

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Profile name in configs/profiles or path of a YAML file. Default: the one in params.yaml.",
    ),
]
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
    names = select(_profile(profile)[1], assets or [])  # before --limit writes its profile
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


@app.command()
def trace(
    target: Annotated[
        str,
        typer.Argument(help="An asset, or a registered model: models:/NAME@ALIAS or models:/NAME/NUMBER."),
    ],
    profile: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Show what an asset or a registered model was made from, up to the sources, and what on disk differs now.

    Exit code 3 where a file or folder on disk is not the recorded version.
    """
    from rsqa_pipeline.lineage.trace import trace as follow

    _, settings = _profile(profile)
    version, model = None, None
    if target.startswith("models:/"):
        from rsqa_pipeline.registration import refuse_forged
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking, registered_version

        model = registered_version(MlflowTracking(settings), target)
        refuse_forged(settings, model)
        target, version = model["asset"], model["data_version"]
    root = follow(settings, target, version)
    faults = root.mismatches()
    if as_json:
        found = {
            "model": model,
            "trace": root.as_dict(),
            "mismatches": [[n.name, n.version, n.on_disk] for n in faults],
        }
        typer.echo(json.dumps(found, indent=1, sort_keys=True))
    else:
        from rsqa_pipeline.cli.lineage_tree import lineage_tree

        title = (
            f"{model['model']} version {model['version']}, weights {model['weights_version'][:12]}" if model else None
        )
        console.print(lineage_tree(root, title))
        for node in faults:
            console.print(f"on disk: {node.name} {node.on_disk}, recorded {node.version}", style="red")
        if not faults:
            console.print("every file and folder on disk is the recorded version")
    if faults:
        raise typer.Exit(3)


app.command("score")(score_command.score)


@app.command()
def promote(profile: ProfileOption = None) -> None:
    """Make the newest score model the champion, if it is not worse than the standing one and passes every probe.

    Both score the same held-out pairs. The decision and its numbers are stored with the model's version. Exit code 4
    where the challenger is refused.
    """
    from rsqa_pipeline.materialize import writing

    _, settings = _profile(profile)
    with writing(settings, "rsqa promote"):  # a refused command does not wait for the imports
        from rsqa_pipeline.registration import refuse_forged, register_if_missing
        from rsqa_pipeline.score_model.evaluation.promotion import promote as compare
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking, registered_version

        tracking = MlflowTracking(settings)
        register_if_missing(settings, tracking, "score_model")
        for alias in ("challenger", "champion"):
            if tracking.version_at("score_model", alias) is not None:
                refuse_forged(settings, registered_version(tracking, f"models:/score_model@{alias}"))
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
) -> None:
    """List the stages and their assets in order."""
    name, settings = _profile(profile)
    if dvc:
        from rsqa_pipeline.dvc_stages import dvc_yaml

        typer.echo(dvc_yaml(name, settings), nl=False)
        return
    tree = Tree("rsqa-pipeline")
    assets = assets_of(settings)
    for stage in STAGES.values():
        branch = tree.add(Text.assemble((stage.name, "bold"), f"  {stage.purpose}"))
        for asset in in_stage(assets, stage.name):
            branch.add(Text.assemble(f"{asset.name}  ", (asset.description, "dim")))
    console.print(tree)


@app.command()
def ui(
    profile: ProfileOption = None,
    port: Annotated[int, typer.Option(help="TCP port on 127.0.0.1.", min=1, max=65535)] = 3000,
) -> None:
    """Open the Dagster UI of a profile at http://127.0.0.1:PORT until interrupted."""
    _refuse_used_port(port)
    from assets.dagster_run import prepare_environment

    name, settings = _profile(profile)
    prepare_environment(settings, name)
    words = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-w",
        "workspace.yaml",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with stop_signals():
        child = subprocess.Popen(words, env=dict(os.environ), start_new_session=True)
        try:
            raise typer.Exit(child.wait())
        except KeyboardInterrupt:
            stop_group(child)
            raise typer.Exit(INTERRUPTED) from None


def _refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"--port {port} on 127.0.0.1 cannot be used: {error.strerror}; choose another") from error


@app.command()
def plan(
    assets: Annotated[list[str] | None, typer.Argument(help="Assets or stages; none means all.")] = None,
    profile: ProfileOption = None,
    limit: LimitOption = None,
) -> None:
    """Show what `rsqa run` would make and why (data, code or settings), and what that took last time."""
    from rsqa_pipeline.cli.plan import print_plan

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
