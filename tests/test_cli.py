"""The command line's answers to bad input, and its help."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import rsqa_pipeline
from rsqa_pipeline.cli.lineage_tree import lineage_tree
from rsqa_pipeline.cli.plan import EXTRAS, print_plan
from rsqa_pipeline.cli.terminal import make_console, plain_table
from rsqa_pipeline.lineage.trace import TraceNode
from rsqa_pipeline.materialization.staleness import StaleAsset
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.stages import assets_of


def rsqa(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsqa_pipeline.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_unknown_profile_lists_the_known_ones() -> None:
    done = rsqa("run", "--profile", "nosuch")
    assert done.returncode == 2
    assert "demo" in done.stderr and "rsicd" in done.stderr and "Traceback" not in done.stderr


def test_all_faults_at_once_and_nothing_written(tmp_path: Path) -> None:
    settings = yaml.safe_load(Path("configs/profiles/demo.yaml").read_text())
    settings["name"] = "broken"
    settings["seed"] = "seven"
    settings["score_model"]["actvation"] = "none"
    settings["source_pairs"]["captions"]["path"] = "no/such.csv"
    profile = tmp_path / "broken.yaml"
    profile.write_text(yaml.safe_dump(settings))
    done = rsqa("run", "--profile", str(profile))
    assert done.returncode == 2
    assert "seed" in done.stderr and "actvation" in done.stderr and "activation" in done.stderr
    assert not Path("data/broken").exists() and not Path(".rsqa/broken").exists()


def test_missing_path_is_a_fault(tmp_path: Path) -> None:
    settings = yaml.safe_load(Path("configs/profiles/demo.yaml").read_text())
    settings["source_pairs"]["captions"]["path"] = "no/such.csv"
    profile = tmp_path / "broken.yaml"
    profile.write_text(yaml.safe_dump(settings))
    done = rsqa("run", "--profile", str(profile))
    assert done.returncode == 2 and "no/such.csv" in done.stderr


@pytest.mark.parametrize("words", [("run", "nosuch"), ("trace", "nosuch")])
def test_unknown_asset_names_the_known_ones(words: tuple[str, ...]) -> None:
    done = rsqa(*words)
    assert done.returncode == 2
    assert "score_model_report" in done.stderr and "Traceback" not in done.stderr


def test_limit_too_small() -> None:
    done = rsqa("run", "--limit", "3")
    assert done.returncode == 2 and "at least 30" in done.stderr


def test_stages_names_every_asset() -> None:
    done = rsqa("stages")
    assert done.returncode == 0
    assert all(name in done.stdout for name in assets_of(load_profile("demo")))


@pytest.mark.parametrize(
    "command", ["run", "plan", "doctor", "trace", "models", "stages", "ui", "serve", "pretrain-tiny"]
)
def test_every_command_has_help(command: str) -> None:
    done = rsqa(command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout


def test_version_is_the_packages() -> None:
    done = rsqa("--version")
    assert done.returncode == 0 and done.stdout.strip() == f"rsqa-pipeline {rsqa_pipeline.__version__}"


def test_doctor_names_what_a_run_depends_on() -> None:
    done = rsqa("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("Python", "memory", "disk free", "GPU", "extra geo", "extra cluster", "demo"):
        assert word in done.stdout


def test_doctor_fits_80_columns_and_shows_brackets() -> None:
    shown = rsqa("doctor").stdout
    assert max(map(len, shown.splitlines())) <= 80
    missing = [extra for extra, package in EXTRAS.items() if find_spec(package) is None]
    assert all(f"(pip install '.[{extra}]')" in shown for extra in missing)


MARKS = "[]/()<>&*_`~$#:=@|\\'\"ab1 red\x1b\x9b\u202e"
"""Marks of rich, Markdown, HTML, TeX and terminals."""


@given(st.text(MARKS, min_size=1, max_size=40).filter(str.strip))
@example("a[/red] [gpu] :smile: [bold]")
@example("\x1b[2J\x1b]0;title \u202egnp.exe")
def test_text_of_marks_is_shown_as_it_is(name: str) -> None:
    shown_as = re.sub(r"[\x1b\x9b\u202e]", lambda found: ascii(found[0])[1:-1], name)
    shown_as = " ".join(shown_as.split())
    table = plain_table("caption")
    table.add_row(name)
    for shown in (name, table, lineage_tree(TraceNode(name, "1", "matches"))):
        console = make_console()
        console.file, console.width = io.StringIO(), 400
        console.print(shown)
        printed = console.file.getvalue()
        assert shown_as in " ".join(printed.split()), printed
        assert printed.replace("\n", "").isprintable()


def test_plan_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    profile = load_profile("demo")
    reasons = ["settings: score_model.phases.instruction, score_model.max_length", "code: rsqa_pipeline.score_model"]
    stale = [StaleAsset(name, reasons, 3725.0) for name in assets_of(profile)]
    monkeypatch.setattr("rsqa_pipeline.materialization.staleness.stale_assets", lambda _, names: stale)
    monkeypatch.setenv("COLUMNS", "80")
    print_plan(profile, list(assets_of(profile)), make_console())
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(name in shown for name in assets_of(profile))


def test_an_unchanged_asset_waits_for_no_heavy_import() -> None:
    """Under ``dvc repro`` every asset is a process of its own, so the start of a process counts per asset."""
    code = "import sys, rsqa_pipeline.cli.main, assets.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "mlflow", "dagster", "dvc", "scipy", "great_expectations"} & set(
        done.stdout.split()
    )
