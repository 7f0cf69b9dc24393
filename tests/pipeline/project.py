"""A clean checkout of this project with a profile that runs every stage in a minute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.profile import Profile

ROOT = Path(__file__).resolve().parent.parent.parent


def smoke_settings() -> dict[str, Any]:
    """The demo's settings with every number small."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs/profiles/demo.yaml").read_text(encoding="utf-8"))
    settings.update(name="smoke", description="every stage, as small as it goes; for tests only")
    settings["source_pairs"].update(instruction_samples=240, benchmark_items=8)
    settings["source_pairs"]["captions"]["path"] = "data/demo/corpus/captions.csv"
    settings["preference_data"].update(
        caption_images=40, instruction_samples=40, text_pairs=24, one_fault_pairs={"place": 4}
    )
    for phase in settings["score_model"]["phases"].values():
        phase.update(epochs=1, batch_size=16, warmup_steps=0)
    settings["score_model"].update(bootstrap_heads=3, length_debias=True)
    settings["curated_subsets"]["shard_rows"] = 100
    for part in ("clip", "vlm_captions", "vlm_instructions"):
        settings["finetuned_models"][part].update(epochs=1, batch_size=16, warmup_steps=0)
    policy = settings["rl_policy"]
    policy.update(reasoning_samples=16, prompts=8, heldout_prompts=8, rollouts=2)
    policy["reasoning"].update(epochs=1, batch_size=16, warmup_steps=0)
    policy["grpo"].update(epochs=1, batch_size=8, warmup_steps=0)
    policy["sampling"]["max_new_tokens"] = 24
    settings["benchmarks"].update(bootstrap_resamples=100)
    settings["benchmarks"]["best_of_n"].update(items=8, counts=[1, 2, 4])
    settings["report"]["gallery_size"] = 2
    return settings


@dataclass(frozen=True)
class Project:
    """A git checkout with a profile of its own."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        paths = os.pathsep.join([str(self.root), os.environ.get("PYTHONPATH", "")])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PYTHONPATH": paths, "PATH": path}

    @property
    def data(self) -> Path:
        return self.root / "data" / "smoke"

    @property
    def captions(self) -> Path:
        return self.root / "data/demo/corpus/captions.csv"

    @property
    def profile(self) -> Profile:
        return Profile.model_validate(yaml.safe_load((self.root / "configs/profiles/smoke.yaml").read_text()))

    def call(self, *words: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, cwd=self.root, env={**self.env, **more}, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(words)} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def commit(self, message: str) -> None:
        self.call("git", "add", "-A")
        self.call("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)


def checkout(root: Path, captions: int = 160, settings: dict[str, Any] | None = None) -> Project:
    """Copies the tracked files of the working tree to ``root`` and makes them a repository with the smoke profile.

    Args:
        settings: of the profile; default: `smoke_settings`.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    project = Project(root)
    (root / "configs/profiles/smoke.yaml").write_text(yaml.safe_dump(settings or smoke_settings(), sort_keys=False))
    (root / "params.yaml").write_text("profile: smoke\n")
    (root / "dvc.lock").unlink(missing_ok=True)
    rows = project.captions.read_text(encoding="utf-8").splitlines(keepends=True)
    project.captions.write_text("".join(rows[: captions + 1]), encoding="utf-8")
    dvc_yaml = project.call(sys.executable, "-m", "rsqa_pipeline.cli.main", "stages", "--dvc").stdout
    (root / "dvc.yaml").write_text(dvc_yaml)
    project.call("git", "init", "-q", "-b", "main")
    project.commit("checkout")
    return project
