"""The commands of docs/explorer.md, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app

PAGE = Path(__file__).parents[2] / "docs/explorer.md"


def test_the_commands_run(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scored.parent)
    marks = [{"key": "r6", "mark": 5, "decision": "keep"}, {"key": "r7", "mark": 1, "decision": "drop"}]
    Path("marks.jsonl").write_text("\n".join(json.dumps({**mark, "rater": "ana", "note": None}) for mark in marks))
    block = re.search(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    for line in block.group(1).splitlines():
        program, *words = shlex.split(line)
        done = CliRunner().invoke(app, words)
        assert program == "rsqa" and done.exit_code == 0, done.output
    assert Path("pages/index.html").is_file()
    assert pq.read_table("marked.parquet").num_rows == 1
