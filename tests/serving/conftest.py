"""A real server in a process of its own, and the same scorer in the test's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import rsqa_pipeline
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.auth import TOKEN_VARIABLE
from rsqa_pipeline.serving.client import URL_VARIABLE, RewardClient
from tests.curated_subsets.random_model import save_random_model

TOKEN = "a-token-for-tests-only"
TEXTS = ["two white tanks on the left", "a harbour with ships", "green fields seen from above", ""]
QUESTION = "How many ships are in the harbour?"


@dataclass
class Server:
    """A running `rsqa serve`."""

    process: subprocess.Popen[str]
    url: str
    started: list[str]
    """Lines that it printed."""

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start_server(model: Path, *words: str, token: str | None = TOKEN) -> Server:
    command = [sys.executable, "-m", "rsqa_pipeline.cli.main", "serve", "--model", str(model), "--port", "0", *words]
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    if token is not None:
        environment[TOKEN_VARIABLE] = token
    process = subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("serving at "):
            return Server(process, lines[-1].removeprefix("serving at "), lines)
    raise AssertionError(f"the server ended with {process.wait()} before it served: {lines}")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose scores have the size of a trained model's, a few units."""
    folder = tmp_path_factory.mktemp("served") / "model"
    save_random_model(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor * 0.2 if tensor.shape[0] == 1 and "head" in name else tensor for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.fixture(scope="session")
def scorer(model: Path) -> Scorer:
    return rsqa_pipeline.load_scorer(model, device="cpu")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[Server]:
    running = start_server(model)
    yield running
    assert running.stop() == 130


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardClient]:
    """A client, which is also what the environment names."""
    monkeypatch.setenv(URL_VARIABLE, server.url)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with RewardClient.from_environment() as made:
        yield made
