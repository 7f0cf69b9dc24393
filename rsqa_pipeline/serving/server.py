"""Loads the replicas, serves until a signal arrives, and answers what is in flight before it ends."""

from __future__ import annotations

import socket
from collections.abc import Collection
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from rsqa_pipeline.models.load import device_of
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.app import RewardApp, Served
from rsqa_pipeline.serving.batching import Batcher
from rsqa_pipeline.serving.golden import GoldenSample
from rsqa_pipeline.serving.limits import Limits
from rsqa_pipeline.serving.metrics import Metrics

KEEP_ALIVE_SECONDS = 60


def load_replicas(folder: Path, compute: Compute, replicas: int | None) -> list[Scorer]:
    """Scorers with the same weights; on GPUs, they take turns over them.

    Args:
        replicas: None means one per GPU, or one on a CPU.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    if device_of(compute).type == "cpu":
        return [Scorer.load(folder, compute) for _ in range(replicas or 1)]
    gpus = torch.cuda.device_count()
    scorers = []
    for number in range(replicas or gpus):
        with torch.cuda.device(number % gpus):
            scorers.append(Scorer.load(folder, compute))
    return scorers


def build_app(
    name: str,
    scorers: list[Scorer],
    token: str,
    compute: Compute,
    limits: Limits,
    image_hosts: Collection[str],
) -> RewardApp:
    """The application over loaded replicas.

    Raises:
        ModelError: the golden sample has no score, or replicas differ.
    """
    version = scorers[0].version
    metrics = Metrics(version)
    golden = GoldenSample(scorers, compute.dtype)
    batcher = Batcher(scorers, metrics.batch_texts.observe)
    return RewardApp(Served(name, version, batcher, golden, metrics, token, limits, image_hosts))


class _Server(uvicorn.Server):
    """A server that refuses new requests from the first signal on; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, app: RewardApp) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again inside the event loop, before the application has ended
        self.force_exit = self._app.draining
        self.should_exit = self._app.draining = True


def serve(app: RewardApp, listening: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM, and returns once all in flight is answered."""
    config = uvicorn.Config(
        app.asgi,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    _Server(config, app).run(sockets=[listening])
