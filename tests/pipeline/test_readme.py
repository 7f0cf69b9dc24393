"""The README's commands about a profile, as they stand there, on a copy of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.commands import ROOT, commands_of
from tests.pipeline.project import Project

pytestmark = pytest.mark.pipeline

REPLACED = {"rsicd": "smoke", "human": "guesser"}
"""Profile and source of texts of the page -> those of the run. Its image file is replaced by an image id of the run."""
REFUSED = 4
"""Exit code of a promotion that is refused, as that of a model this small may be."""


def test_the_commands_about_a_profile(project: Project, tmp_path: Path) -> None:
    copy = Project(tmp_path / "project")
    shutil.copytree(project.root, copy.root, symlinks=True)
    copy.call("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    samples = pq.read_table(copy.data / "source_pairs/image_text_pairs/samples.parquet", columns=["image_id"])
    replaced = {**REPLACED, "airport_1.jpg": samples["image_id"][0].as_py()}
    commands = [c for c in commands_of(ROOT / "README.md") if "rsicd" in c.words and c.words[1] != "ui"]
    assert {c.words[1] for c in commands} >= {
        "run", "plan", "trace", "audit", "models", "lineage", "evidence", "promote",
    }  # fmt: skip
    for command in commands:
        words = [replaced.get(word, word) for word in command.words]
        if "--limit" in words:
            words[words.index("--limit") + 1] = "40"
            words.append("source_pairs")  # the other stages are those of the whole run
        done = copy.call(*words, check=False)
        allowed = (0, REFUSED) if words[1] == "promote" else (0,)
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (copy.root / "lineage.jsonl").is_file() and (copy.root / "evidence/package.sig").is_file()
    assert (copy.root / "data/smoke-limit-40/source_pairs/image_text_pairs/samples.parquet").is_file()
