"""The reward server under load, and against the released server's way of asking, on the same model.

    python perf/serving.py --out serving.json

load: ``--clients`` clients, each with a connection of its own, ask for one pair after another for ``--seconds``: an
image (one of 32, 256 px JPEG) and two completions, as the released server is asked. An error is any reply but 200, or a
missing score.

best of 8: one client, eight completions of an image. Released way: one pair with the reference after another, each with
the image, scored by the same weights in a padded batch of two, as the released server does; it runs in this process and
so has no cost of HTTP. Server: one request with all eight. Scores are asserted to be equal.

The clients share the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from rsqa_pipeline.images.decode import decode_image
from rsqa_pipeline.models.conversation import as_chat, encode
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.network.checkpoint import read_base
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.serving.client import RewardClient
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS

TOKEN = "a-token-of-the-measurement"
QUESTION = "how many ships are in the harbour?"
WORDS = ("two", "white", "ships", "beside", "a", "long", "pier", "and", "three", "tanks", "on", "the", "left")
CONTEXT = 512


def jpegs(count: int) -> list[bytes]:
    """Smooth random images of 256 px."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((256, 256), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(8, 30))) for _ in range(count)]


def save_model(folder: Path) -> None:
    """The shipped VLM with a random head."""
    model = ScoreModel.from_base(str(CHECKPOINTS / "vlm"))
    with torch.no_grad():
        model.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    processor = load_processor(CHECKPOINTS / "vlm")
    processor.tokenizer.model_max_length = CONTEXT
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def start(model: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "rsqa_pipeline.cli.main", "serve", "--model", str(model), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RSQA_REWARD_TOKEN": TOKEN},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving at "):
            return process, line.removeprefix("serving at ").strip()
    raise SystemExit("the server did not start")


async def load(url: str, images: Sequence[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Errors, pairs per second and percentiles of a request's time in seconds."""
    urls = ["data:image/jpeg;base64," + base64.b64encode(data).decode() for data in images]
    times: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        nonlocal errors
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
            request = 0
            while time.perf_counter() < end:
                one, two = texts(2, seed=number * 10_000 + request)
                asked = {"problem_description": QUESTION, "image_data": urls[(number + request) % len(urls)]}
                request += 1
                started = time.perf_counter()
                reply = await http.post("/v1/rewards", json=asked | {"completion1": one, "completion2": two})
                times.append(time.perf_counter() - started)
                if reply.status_code != 200 or any(item["score"] is None for item in reply.json()["scores"]):
                    errors += 1

    began = time.perf_counter()
    await asyncio.gather(*(ask(number) for number in range(clients)))
    took = time.perf_counter() - began
    p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
    return {"requests": len(times), "errors": errors, "pairs_per_second": len(times) / took, "p50": p50, "p99": p99}


class ReleasedWay:
    """Pairs in a padded batch of two, each row with its image."""

    def __init__(self, folder: Path) -> None:
        self._model = ScoreModel.from_pretrained(folder).eval()
        self._plain = read_base(str(CHECKPOINTS / "vlm"))  # the same backbone, without shared sequences
        self._processor = load_processor(folder)

    @torch.inference_mode()
    def pair(self, data: bytes, completion: str, reference: str) -> list[float]:
        image = decode_image(base64.b64decode(base64.b64encode(data)))
        turns = [Message(role="user", content=QUESTION)]
        chats = [as_chat([*turns, Message(role="assistant", content=text)]) for text in (completion, reference)]
        inputs = encode(self._processor, chats, [image, image], CONTEXT)
        hidden = self._plain(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(dim=1) - 1
        read = hidden[torch.arange(len(last)), last]
        found: list[float] = self._model.head(read.float()).squeeze(-1).tolist()
        return found


def best_of_8(folder: Path, url: str, images: Sequence[bytes], repeats: int) -> dict[str, float]:
    """Median seconds of eight completions of an image, either way."""
    released = ReleasedWay(folder)
    taken: dict[str, list[float]] = {"released": [], "server": []}
    with RewardClient(url, TOKEN) as client:
        for number in range(repeats + 1):
            data, candidates = images[number % len(images)], texts(8, seed=number)
            started = time.perf_counter()
            one_by_one = [released.pair(data, text, candidates[0])[0] for text in candidates]
            between = time.perf_counter()
            together = client.score(data, QUESTION, candidates)
            if number:  # the first is a warm-up
                taken["released"].append(between - started)
                taken["server"].append(time.perf_counter() - between)
            assert np.allclose(one_by_one, np.array(together, float), atol=1e-4), (one_by_one, together)
    seconds = {way: statistics.median(found) for way, found in taken.items()}
    return {**seconds, "ratio": seconds["released"] / seconds["server"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder = options.out.with_suffix(".model")
    save_model(folder)
    images = jpegs(32)
    process, url = start(folder)
    try:
        found = {
            "threads": torch.get_num_threads(),
            "best_of_8": best_of_8(folder, url, images, options.repeats),
            "load": asyncio.run(load(url, images, options.clients, options.seconds)),
        }
    finally:
        process.terminate()
        process.wait()
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
