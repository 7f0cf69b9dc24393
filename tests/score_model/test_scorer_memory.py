"""Memory: scoring continues with smaller batches where it runs out, and a bounded number of images wait in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder
from rsqa_pipeline.score_model.inputs.sequences import Pixels
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring import image_loading
from rsqa_pipeline.score_model.scoring.batches import WINDOW
from rsqa_pipeline.score_model.scoring.scorer import Scorer


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured in a way that only Linux supports")
def test_out_of_memory_leads_to_halves_then_a_smaller_image_then_a_reason(
    base_models: Path, images: dict[str, str], project_root: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)).save(large)
    script = Path(__file__).with_name("out_of_memory.py")
    done = subprocess.run(
        [sys.executable, script, base_models / "vlm", images["red"], large],
        cwd=project_root,
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "out of memory at" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    many, (shrunk,), (hopeless,) = result["found"]
    assert [score["value"] for score in many] == pytest.approx(result["expected"][0], abs=1e-4)
    assert shrunk["note"] == "image_downscaled" and shrunk["value"] is not None
    assert (hopeless["value"], hopeless["reason"]) == (None, "out_of_memory")


def test_the_number_of_waiting_images_is_bounded(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, peak, lock = 0, 0, threading.Lock()

    def release() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    original = ChatEncoder.pixels

    def counted(self: ChatEncoder, image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        nonlocal alive, peak
        pixels = original(self, image, max_tokens)
        weakref.finalize(pixels, release)
        with lock:
            alive += 1
            peak = max(peak, alive)
        return pixels

    monkeypatch.setattr(ChatEncoder, "pixels", counted)
    groups = [ScoringGroup(Image.open(images["red"]), [], ["a red field"]) for _ in range(300)]
    scored = Scorer(model, processor, 192, "test", batch_tokens=250).score(groups)
    values = [score for (score,) in scored if score is not None]
    assert len(values) == 300
    assert max(values) - min(values) < 1e-4
    # two images fit a batch; one batch is scored, one is ready, and the threads hold one each
    assert image_loading.LOOK_AHEAD <= peak <= image_loading.LOOK_AHEAD + 2 * (WINDOW + 3) + image_loading.THREADS
    assert alive == 0
