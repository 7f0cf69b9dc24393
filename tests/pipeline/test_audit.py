"""`rsqa audit` and `rsqa trace` on a finished project: every contradiction is found by name, and nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rsqa_pipeline.audit.audit import audit
from rsqa_pipeline.audit.findings import Finding
from tests.pipeline.mutations import MUTATIONS, restored
from tests.pipeline.project import Project

COUNT = int(os.environ.get("RSQA_AUDIT_MUTATIONS", "12"))
COPIES = int(os.environ.get("RSQA_AUDIT_COPIES", "1"))
pytestmark = pytest.mark.pipeline


def found_in(project: Project) -> list[Finding]:
    """Findings in the project, whose folder is the current one."""
    return audit(project.profile).findings


@pytest.mark.parametrize("number", range(COUNT))
def test_every_mutation_is_found_by_name(project: Project, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(project.root)
    mutate = MUTATIONS[number % len(MUTATIONS)]
    with restored(project):
        where = mutate(project, random.Random(number))
        found = {(finding.kind, finding.where) for finding in found_in(project)}
    assert (mutate.__name__, where) in found


@pytest.mark.parametrize("number", range(COPIES))
def test_an_untouched_copy_has_no_finding(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    copy = Project(tmp_path / f"copy {number}")
    shutil.copytree(project.root, copy.root, symlinks=True)
    monkeypatch.chdir(copy.root)
    assert found_in(copy) == []


def test_the_commands_of_the_docs(project: Project, tmp_path: Path) -> None:
    clean = project.call("rsqa", "audit").stdout
    assert "no findings" in clean and " 0 of them unlinked" in clean
    assert json.loads(project.call("rsqa", "audit", "--json").stdout)["findings"] == []
    assert project.call("rsqa", "audit", "--profile", "nothing", check=False).returncode == 2
    page, other = tmp_path / "lineage.html", tmp_path / "all.html"
    assert "0 with a missing link" in project.call("rsqa", "trace", "vlm_all", "--html", str(other)).stdout
    report = json.loads(project.call("rsqa", "trace", "curation_report", "--json").stdout)
    assert report["trace"]["name"] == "curation_report" and other.is_file()
    traced = json.loads(
        project.call("rsqa", "trace", "models:/vlm@champion", "--json", "--html", str(page)).stdout,
    )
    subset = pd.read_parquet(project.data / "curated_subsets/subset_score_model_p30s60/ids.parquet")
    assert {row["sample_id"] for row in traced["samples"]} == set(subset["sample_id"])
    assert ", 0 with a missing link" in traced["rows"]
    assert page.read_text(encoding="utf-8").count("<tr>") > len(subset)
    with restored(project):
        (project.root / "metrics/smoke/score_model.json").write_text("{}\n")
        broken = project.call("rsqa", "audit", check=False)
    assert broken.returncode == 1 and "changed_metric" in broken.stdout


def test_forward_from_a_captioner_names_what_it_touched(project: Project) -> None:
    """Against a count with plain loops over the tables."""
    found = json.loads(project.call("rsqa", "trace", "--forward", "guesser", "--json").stdout)
    samples, pairs = dict[str, list[str]](), dict[str, list[str]]()
    for table in ("image_text_pairs", "instruction_samples"):
        rows = pd.read_parquet(project.data / f"source_pairs/{table}/samples.parquet")
        samples[table] = [row["sample_id"] for _, row in rows.iterrows() if row["source"] == "guesser"]
    for table in ("caption_preferences", "instruction_preferences", "text_preferences"):
        rows = pd.read_parquet(project.data / f"preference_data/{table}/pairs.parquet")
        named = [row for _, row in rows.iterrows() if "guesser" in (row["chosen_source"], row["rejected_source"])]
        pairs[table] = [row["pair_id"] for row in named]
    assert found["samples"] == {name: ids for name, ids in samples.items() if ids}
    assert found["pairs"] == {name: ids for name, ids in pairs.items() if ids}
    everything = {key for ids in samples.values() for key in ids}
    for path in sorted(project.data.glob("curated_subsets/subset_*/ids.parquet")):
        kept = [key for key in pd.read_parquet(path)["sample_id"] if key in everything]
        assert found["subsets"].get(path.parent.name, []) == kept
        model = found["models"].get(f"vlm_{path.parent.name.removeprefix('subset_')}", 0)
        assert model == len(kept)
    assert project.call("rsqa", "trace", "--forward", "nobody", check=False).returncode == 2
