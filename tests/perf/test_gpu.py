"""perf/gpu.py runs at tiny size on a CPU, and without the packages that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = ("trl", "datasets", "dagster", "mlflow", "great_expectations", "dvc")
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))
sys.argv[0] = "perf/gpu.py"
sys.path.insert(0, "perf")
runpy.run_path("perf/gpu.py", run_name="__main__")
"""


def run(*words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("gpu") / "tiny.md"
    run("perf/gpu.py", "--tiny", "--out", str(out))
    return out.read_text()


def test_every_measurement_has_a_row(measured: str) -> None:
    for row in (
        "pairs/s",
        "16 completions",
        "bfloat16 - float32",
        "CLIP",
        "in chunks of 4",
        "score model",
        "SFT",
        "GRPO",
    ):
        assert row in measured
    assert measured.startswith("CPU; ") and "torch " in measured and "transformers " in measured
    assert "skipped" not in measured and "out of memory" not in measured


def test_without_optional_packages_their_steps_are_skipped_with_the_reason(tmp_path: Path) -> None:
    out = tmp_path / "tiny.md"
    run("-c", WITHOUT, "--tiny", "--out", str(out))
    lines = out.read_text().splitlines()
    skipped = [line for line in lines if "skipped" in line]
    assert [line.split(",")[0] for line in skipped] == ["| SFT", "| GRPO"]
    assert all("needs the package trl" in line or "needs the package datasets" in line for line in skipped)
    assert any("pairs/s" in line for line in lines)
