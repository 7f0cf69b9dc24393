"""`rsqa forget`: a deletion request, from the list of what it touches to its receipt."""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING, Annotated

import typer

from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.run import duration, run_assets
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.git import ask_git
from rsqa_pipeline.profile import Profile, default_profile, load_profile

if TYPE_CHECKING:
    from rsqa_pipeline.audit.findings import Finding
    from rsqa_pipeline.forgetting.request import Request

console = make_console()


def forget(
    targets: Annotated[
        list[str], typer.Argument(metavar="IMAGE_OR_SAMPLE...", help="Path or hash of an image, or id of a sample.")
    ],
    profile: ProfileOption = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, e.g. the number of the request.")] = None,
    who: Annotated[str | None, typer.Option("--who", help="Who enters it. Default: git's user.name.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make every asset on disk again without it.")] = False,
    decision: Annotated[
        str | None, typer.Option("--decision", help="Instead of --rebuild: what was decided, for the receipt.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what it touches; write nothing.")] = False,
) -> None:
    """Forget images or samples: list what they touched, keep them out of every later build, write a receipt.

    Their hashes go into forgotten.jsonl, which every reader of sources honours. Exit code 1 where something is still
    held after --rebuild.
    """
    started = time.monotonic()
    name = profile or default_profile()
    settings = load_profile(name)
    if not dry_run and (reason is None or not reason.strip()):
        raise UsageError("--reason is needed, e.g. the number of the request; --dry-run only lists")
    if not dry_run and rebuild == (decision is not None and bool(decision.strip())):
        raise UsageError("give either --rebuild or --decision TEXT; --dry-run only lists")
    from rsqa_pipeline.forgetting.request import read_request

    request = read_request(settings, targets)
    _print_request(request)
    if dry_run:
        return
    assert reason is not None
    who = who or ask_git("config", "user.name") or getpass.getuser()
    _forget(name, settings, request, (reason, who), None if rebuild else decision, started)


def _forget(
    name: str, settings: Profile, request: Request, entered: tuple[str, str], decision: str | None, started: float
) -> None:
    from rsqa_pipeline.audit.forgotten import check_forgotten
    from rsqa_pipeline.forgetting.enter import enter
    from rsqa_pipeline.forgetting.receipt import Outcome, write_receipt

    new = enter(name, settings, request, *entered)
    console.print(f"{len(new)} new lines in forgotten.jsonl; commit it")
    rebuilt = _rebuild(name, settings) if decision is None else []
    remaining = check_forgotten(settings)
    seconds = time.monotonic() - started
    outcome = Outcome(request, *entered, new, decision, rebuilt, seconds, remaining)
    for path in write_receipt(settings, outcome):
        console.print(f"receipt: {path}", soft_wrap=True)
    _print_remaining(remaining)
    if remaining and decision is None:
        raise typer.Exit(1)


def _rebuild(name: str, settings: Profile) -> list[str]:
    """Makes what is stale among the outputs on disk; returns the assets computed."""
    from rsqa_pipeline.materialization.staleness import stale_assets
    from rsqa_pipeline.stages import assets_of

    there = [asset.name for asset in assets_of(settings).values() if asset.folder(settings).is_dir()]
    stale = [asset.name for asset in stale_assets(settings, there)]
    return run_assets(settings, name, stale, False, console, verbose=False, quiet=False).computed if stale else []


def _print_request(request: Request) -> None:
    table = plain_table("touched", "asset", "rows")
    for what, asset, rows in request.counts:
        table.add_row(what, asset, str(rows))
    console.print(table if request.counts else "no output holds it")
    rebuild = request.touched["rebuild"]
    total = sum(seconds or 0 for seconds in rebuild.values())
    console.print(f"reports: {', '.join(request.touched['reports']) or 'none'}")
    console.print(f"{len(rebuild)} assets to make again; the timed ones took {duration(total)}: {', '.join(rebuild)}")


def _print_remaining(remaining: list[Finding]) -> None:
    for finding in remaining:
        console.print(f"{finding.kind}: {finding.where}: {finding.detail}", soft_wrap=True)
    if not remaining:
        console.print("no output holds a forgotten image or sample")
