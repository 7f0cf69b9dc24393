"""`rsqa retrain` and the workflow that calls it, in clean clones with a DVC remote."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset_names import downstream
from tests.pipeline.project import ROOT, Project, smoke_settings

ASSETS = assets_of(Profile.model_validate(smoke_settings()))
BELOW_CAPTIONS = {"image_text_pairs", *downstream(ASSETS, "image_text_pairs")}
pytestmark = pytest.mark.pipeline


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    """A clean clone whose origin accepts pushes."""
    subprocess.run(["git", "clone", "-q", "--bare", str(project.root), str(tmp_path / "origin")], check=True)
    subprocess.run(["git", "clone", "-q", str(tmp_path / "origin"), str(tmp_path / "project")], check=True)
    return Project(tmp_path / "project")


def made(output: str) -> list[str]:
    """Assets that a run computed, in order."""
    return re.findall(r"^\[ *\d+/\d+\] (\w+) +(?!unchanged)\d", output, flags=re.MULTILINE)


def locked(project: Project) -> dict[str, str]:
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    return {name: stage["outs"][0]["md5"] for name, stage in stages.items()}


def workflow_steps(name: str) -> list[str]:
    """Shell lines of the job, installation aside."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/retrain.yml").read_text())
    return [step["run"] for step in workflow["jobs"][name]["steps"] if "run" in step and step["name"] != "install"]


def test_workflow_retrains_what_a_change_of_captions_made_stale(clone: Project, tmp_path: Path) -> None:
    """The workflow's own shell lines, with some captions changed on a branch."""
    before = locked(clone)
    clone.call("git", "checkout", "-qb", "better-captions")
    lines = clone.captions.read_text(encoding="utf-8").splitlines()
    for index in range(10, len(lines), 20):
        lines[index] = lines[index].rsplit(",", 1)[0] + ",an aerial image of a harbour with two white ships"
    clone.captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    clone.commit("better captions")
    clone.call("git", "push", "-q", "-u", "origin", "better-captions")
    summary = tmp_path / "summary.md"
    environment = {"GITHUB_STEP_SUMMARY": str(summary), "SINCE": "origin/main", "MERGED": "false"}
    plan, retrain, commit = workflow_steps("retrain")
    assert "settings" not in (planned := clone.call("bash", "-e", "-c", plan, **environment).stdout)
    assert re.search(r"^image_text_pairs +source changed:", planned, flags=re.MULTILINE), planned
    done = clone.call("bash", "-e", "-c", retrain, check=False, **environment)
    page = summary.read_text(encoding="utf-8")
    assert done.returncode == (4 if "## Score model: refused" in page else 0), done.stderr
    ran = set(made(done.stdout))
    assert {"image_text_pairs", "caption_preferences", "curation_report"} <= ran <= BELOW_CAPTIONS
    clone.call("bash", "-e", "-c", commit, **environment)

    assert f"{len(ran)} of {len(ASSETS)} assets made; " in page
    assert re.search(r"\| all held-out pairs \| [+-]\d\.\d{4} \| \\\[[+-]", page)
    assert "## VLM tuned on the main subset" in page and "xychart-beta" in page
    assert {name for name, version in locked(clone).items() if version != before[name]} <= ran
    assert clone.call("dvc", "status", "--cloud", "-q", check=False).returncode == 0, "new outputs are in the remote"
    pushed = clone.call("git", "show", "--stat", "--format=%s", "origin/better-captions").stdout
    assert pushed.startswith("Record the retrained outputs") and "dvc.lock" in pushed and "metrics/smoke" in pushed
    assert "champion" not in done.stdout, "an alias moves after a merge only"


def test_nothing_is_made_where_nothing_or_a_comment_changed(clone: Project) -> None:
    module = clone.root / "rsqa_pipeline/source_pairs/image_text_pairs.py"
    for _ in range(2):
        done = clone.call("rsqa", "retrain", "--since", "origin/main")
        assert "Nothing to retrain" in done.stdout and made(done.stdout) == []
        module.write_text(module.read_text(encoding="utf-8") + "\n# a remark\n", encoding="utf-8")
        clone.commit("a remark")
    assert clone.call("git", "status", "--porcelain").stdout == ""


def test_a_setting_of_the_report_makes_the_report_alone(clone: Project, tmp_path: Path) -> None:
    settings = clone.root / "configs/profiles/smoke.yaml"
    settings.write_text(settings.read_text().replace("gallery_size: 2", "gallery_size: 1"))
    clone.commit("a smaller gallery")
    summary = tmp_path / "summary.md"
    done = clone.call("rsqa", "retrain", "--since", "origin/main", "--summary", str(summary))
    assert made(done.stdout) == ["curation_report", "lineage_manifest"]
    page = summary.read_text(encoding="utf-8")
    assert "2 of" in page and "the score model is unchanged" in page
    assert "settings changed: report" in page
    assert "were not pushed" in page


def test_a_merge_sets_the_alias_only_where_the_gate_passes(clone: Project) -> None:
    """The base commit has no score model, so only the probes decide."""
    first = clone.call("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    done = clone.call("rsqa", "retrain", "--since", first, "--promote", check=False)
    champion = clone.call("rsqa", "trace", "models:/score_model@champion", check=False)
    assert done.returncode in (0, 4)
    assert (done.returncode == 0) == ("is the champion" in done.stdout) == (champion.returncode == 0)


def test_a_failed_asset_fails_the_command_and_the_summary_says_why(clone: Project, tmp_path: Path) -> None:
    clone.captions.write_text("not,the,columns\n1,2,3\n", encoding="utf-8")
    clone.commit("a broken file")
    summary = tmp_path / "summary.md"
    done = clone.call("rsqa", "retrain", "--since", "origin/main", "--summary", str(summary), check=False)
    assert done.returncode == 1
    page = summary.read_text(encoding="utf-8")
    assert "FAILED" in page and "captions.csv" in page and "Score model" not in page


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--since", "nosuch"], "git knows no commit 'nosuch'"),
        (["--since", "origin/main", "--summary", "nosuch/page.md"], "no folder nosuch"),
    ],
)
def test_mistakes_are_found_before_any_work(clone: Project, words: list[str], reason: str) -> None:
    done = clone.call("rsqa", "retrain", *words, check=False)
    assert done.returncode == 2 and reason in done.stderr
    assert not (clone.root / ".rsqa").exists()


def test_without_a_remote_a_line_says_what_to_do(clone: Project) -> None:
    (clone.root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    refused = clone.call("rsqa", "retrain", "--since", "HEAD", "--push", check=False)
    assert refused.returncode == 2 and "dvc remote add -d" in refused.stderr
