"""`rsqa retrain`: make what a change of data, code or settings made stale, and judge the result against a commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsqa_pipeline.cli.plan import print_plan
from rsqa_pipeline.cli.run import run_assets
from rsqa_pipeline.cli.terminal import make_console
from rsqa_pipeline.errors import RsqaError, UsageError
from rsqa_pipeline.profile import Profile, default_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_services
from rsqa_pipeline.stages import assets_of

if TYPE_CHECKING:
    from rsqa_pipeline.retraining.baseline import Baseline
    from rsqa_pipeline.retraining.summary import MetricChange, Retraining

REFUSED = 4
"""Exit code: everything is made, but the gate refuses the new score model."""

console = make_console()


def retrain(
    since: Annotated[str, typer.Option("--since", help="Branch or commit; compared is what it shares with HEAD.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is stale and why; make nothing.")] = False,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="Append a Markdown page for a pull request to this file.")
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Push the new outputs to the DVC remote.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="If the gate passes, make the score model the champion: after a merge.")
    ] = False,
) -> None:
    """Make what is stale in the profile of params.yaml, compare it with the base commit, and write a summary.

    Outputs that dvc.lock records are pulled first if DVC has a remote. The gate passes a new score model only if its
    held-out accuracy rises with an interval above 0 and no family of pairs is worse. Exit code 1 where an asset
    failed, 4 where the gate refuses.
    """
    from rsqa_pipeline.retraining.baseline import Baseline, has_remote

    name = default_profile()
    profile = load_profile(name)
    baseline = Baseline.before(since)
    if summary is not None and not summary.parent.is_dir():
        raise UsageError(f"--summary: no folder {summary.parent}; make it first")
    remote = has_remote()
    if push and not remote:
        raise UsageError("--push: DVC has no default remote; add one with `dvc remote add -d NAME URL`")
    if not dry_run:
        refuse_silent_services()
    retraining = _planned(name, profile, baseline, remote)
    retraining.dry_run = dry_run
    if retraining.stale:
        print_plan(profile, list(assets_of(profile)), console)
    error = None
    try:
        if not dry_run:
            _make_and_judge(name, profile, baseline, retraining)
            _push(push, remote, retraining)
            _promote(promote, profile, retraining)
    except RsqaError as failure:
        error, retraining.failure = failure, str(failure)
    _write(summary, retraining)
    if error is not None:
        raise error
    if retraining.gate is not None and retraining.gate.verdict == "refused":
        raise typer.Exit(REFUSED)


def _planned(name: str, profile: Profile, baseline: Baseline, remote: bool) -> Retraining:
    from rsqa_pipeline.dvc_files.lock import rebuild_manifests
    from rsqa_pipeline.materialization.materialize import writing
    from rsqa_pipeline.materialization.staleness import stale_assets
    from rsqa_pipeline.retraining.baseline import dvc
    from rsqa_pipeline.retraining.summary import Retraining

    notes = []
    if remote:
        pulled = dvc("pull", "--allow-missing", "--quiet")
        if pulled.returncode != 0:
            reason = (pulled.stderr.strip().splitlines() or ["no reason given"])[0]
            notes.append(f"Not everything that dvc.lock records could be pulled: {reason}")
    else:
        notes.append(
            "DVC has no default remote, so nothing was pulled and what is missing here is made again; add one with "
            "dvc remote add -d NAME URL"
        )
    with writing(profile, "rsqa retrain"):
        rebuild_manifests(name, profile)
    names = list(assets_of(profile))
    return Retraining(profile.name, baseline.commit, stale_assets(profile, names), len(names), notes=notes)


def _make_and_judge(name: str, profile: Profile, baseline: Baseline, retraining: Retraining) -> None:
    from rsqa_pipeline.retraining.benchmark_changes import benchmark_changes
    from rsqa_pipeline.retraining.gate import judge

    if retraining.stale:
        assets = list(assets_of(profile))
        outcome = run_assets(profile, name, assets, False, console, verbose=False, quiet=False)
        retraining.computed = outcome.computed
    retraining.gate = judge(profile, baseline)
    console.print(f"score model: {retraining.gate.verdict}")
    for reason in retraining.gate.reasons:
        console.print(f"  {reason}")
    retraining.benchmarks, notes = benchmark_changes(profile, baseline)
    retraining.notes += notes
    retraining.metrics, retraining.warnings = _metrics_and_warnings(profile, baseline)


def _metrics_and_warnings(profile: Profile, baseline: Baseline) -> tuple[list[MetricChange], list[str]]:
    from rsqa_pipeline.lineage.manifest import manifests
    from rsqa_pipeline.materialization.materialize import current_manifest, metrics_file
    from rsqa_pipeline.retraining.summary import metric_changes

    before, now, warnings = {}, {}, []
    store = manifests(profile)
    for asset in assets_of(profile).values():
        before[asset.name] = baseline.metrics(profile, asset) or {}
        path = metrics_file(profile, asset)
        now[asset.name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        manifest = current_manifest(profile, asset, store)
        checks = manifest.checks if manifest is not None else []
        warnings += [f"{asset.name}: {c['name']}: {c['detail']}" for c in checks if not c["passed"]]
    return metric_changes(before, now), warnings


def _push(push: bool, remote: bool, retraining: Retraining) -> None:
    from rsqa_pipeline.errors import DataError
    from rsqa_pipeline.retraining.baseline import dvc

    if not push:
        if remote and retraining.computed:
            retraining.notes.append("The new outputs were not pushed; push them with dvc push, or use --push.")
        return
    pushed = dvc("push", "--quiet")
    if pushed.returncode != 0:
        reason = (pushed.stderr.strip().splitlines() or ["no reason given"])[0]
        raise DataError(f"the outputs are made, but dvc push failed ({reason}); check the remote and run dvc push")


def _promote(promote: bool, profile: Profile, retraining: Retraining) -> None:
    gate = retraining.gate
    if not promote or gate is None or gate.verdict != "passed":
        return
    from dataclasses import asdict

    from rsqa_pipeline.errors import DataError
    from rsqa_pipeline.materialization.materialize import writing
    from rsqa_pipeline.registration import describe_versions, find_registered
    from rsqa_pipeline.retraining.gate import MODEL
    from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
    from rsqa_pipeline.versions import folder_version

    tracking = MlflowTracking(profile)
    found = find_registered(profile, tracking, f"models:/{MODEL}@challenger")
    if found["data_version"] != folder_version(assets_of(profile)[MODEL].folder(profile)):
        raise DataError(
            f"the registry's challenger is {MODEL} {found['data_version']}, not the one on disk; run `rsqa run {MODEL} "
            "--force` to register it"
        )
    decision = {**asdict(gate), "promoted": True}
    with writing(profile, "rsqa retrain"):
        describe_versions(profile, tracking, MODEL)
        tracking.record_decision(MODEL, found["version"], decision, promoted=True)
    console.print(f"{MODEL} version {found['version']} is the champion")


def _write(summary: Path | None, retraining: Retraining) -> None:
    from rsqa_pipeline.retraining.summary import summary_of

    page = summary_of(retraining)
    if summary is None:
        console.print(page.split("\n\n")[1].strip("*"))
        return
    with summary.open("a", encoding="utf-8") as file:
        file.write(page)
    console.print(f"summary: {summary}", soft_wrap=True)
