"""Runs the VLM benchmark on one model in its own process, which a test kills:
``python benchmark_process.py BASE_MODELS BENCHMARK_SETS OUT BATCH_SIZE``.

Appends the keys of every generated batch, after it was kept, to ``generated.txt`` in the working folder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rsqa_pipeline.benchmarks import vlm_benchmark
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.tracking.run_logger import SilentLogger


class SlowlyKept(KeptReplies):
    def keep(self, batch: Mapping[str, str]) -> None:
        super().keep(batch)
        with Path("generated.txt").open("a") as file:
            file.writelines(f"{key}\n" for key in batch)
        time.sleep(0.15)


def main(base_models: Path, benchmark_sets: Path, out: Path, batch_size: int) -> None:
    vlm_benchmark.KeptReplies = SlowlyKept  # type: ignore[misc]
    marks = {"batch_size": batch_size, "max_new_tokens": 6, "bootstrap_resamples": 20, "served": {}, "reply_boxes": {}}
    subsets: Any = SimpleNamespace(main="all", subsets={})
    profile = Profile.model_construct(
        name="killed",
        seed=3,
        compute=Compute(device="cpu"),
        benchmarks=cast(Any, SimpleNamespace(**marks)),
        finetuned_models=cast(Any, SimpleNamespace(seeds=[0])),
        curated_subsets=subsets,
    )
    inputs = {"benchmark_sets": benchmark_sets, "base_models": base_models}
    vlm_benchmark.run(inputs, out, profile, SilentLogger(), models={}, policies=[], comparisons=[])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
