"""The command: how it starts, what it refuses, and how it stops."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rsqa_pipeline.serving.auth import TOKEN_VARIABLE
from rsqa_pipeline.serving.client import RewardClient
from tests.serving.conftest import TEXTS, TOKEN, start_server
from tests.serving.test_bad_requests import in_flight


def test_a_drained_server_answers_all_that_is_in_flight(model: Path) -> None:
    running = start_server(model)
    headers = {"authorization": f"Bearer {TOKEN}"}
    body = json.dumps({"completions": [f"{number} ships in a harbour" for number in range(200)]}).encode()
    answered: list[int] = []

    def ask() -> None:
        answered.append(httpx.post(f"{running.url}/v1/rewards", content=body, headers=headers, timeout=120).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    while in_flight(running) < 12:
        assert not answered, "the requests are too short to be in flight together"
        time.sleep(0.01)
    assert running.stop() == 130
    for thread in threads:
        thread.join()
    assert answered == [200] * 12
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/healthz")


def test_under_load_a_stop_loses_no_answer(model: Path) -> None:
    """Clients that keep asking see answers until the stop, and then a refusal or a closed door: no half answer, no 5xx
    but the refusal."""
    running = start_server(model)
    body = json.dumps({"completions": TEXTS}).encode()
    headers = {"authorization": f"Bearer {TOKEN}"}
    many = threading.Semaphore(0)

    def keep_asking(_: int) -> list[int]:
        seen = []
        with httpx.Client(headers=headers, timeout=60) as http:
            while True:
                try:
                    reply = http.post(f"{running.url}/v1/rewards", content=body)
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    return seen
                seen.append(reply.status_code)
                many.release()
                assert reply.json()
                if reply.status_code != 200:
                    assert reply.json()["error"]["code"] == "draining"
                    return seen

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(8)]
        for _ in range(24):
            assert many.acquire(timeout=60)
        assert running.stop() == 130
        statuses = [status for one in asking for status in one.result()]
    assert statuses.count(200) >= 24 and set(statuses) <= {200, 503}


def test_a_server_makes_a_token_and_prints_it_once(model: Path) -> None:
    running = start_server(model, "--replicas", "2", "--max-completions", "3", token=None)
    try:
        shown = [line for line in running.started if line.startswith("token: ")]
        assert len(shown) == 1 and len(shown[0]) > 40
        assert running.started[0].endswith("replicas: 2")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", running.url)
        with RewardClient(running.url, shown[0].removeprefix("token: ")) as client:
            assert len(client.score(None, "", TEXTS[:3])) == 3
            with pytest.raises(Exception, match="too_many_completions"):
                client.score(None, "", TEXTS[:4])
    finally:
        assert running.stop() == 130


def test_health_readiness_and_metrics(server: Any, client: RewardClient) -> None:
    assert httpx.get(f"{server.url}/healthz").text == "ok\n"
    ready = httpx.get(f"{server.url}/readyz", timeout=60)
    assert ready.status_code == 200 and ready.json()["status"] == "ready"
    client.score(None, "", TEXTS)
    assert ready.json()["model_version"] == client.model_version
    text = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    assert 'rsqa_requests_total{endpoint="/v1/rewards",status="200"}' in text
    assert f'rsqa_model_info{{version="{client.model_version}"}} 1.0' in text
    assert httpx.get(f"{server.url}/docs").status_code == 404
    assert httpx.get(f"{server.url}/v1/rewards").status_code == 405


def refused(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rsqa_pipeline.cli.main", "serve", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == "", done
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_a_missing_model_is_no_start(tmp_path: Path) -> None:
    assert "no/such/model" in refused("--model", "no/such/model", "--port", "0")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"?")
    assert "--model" in refused("--model", str(tmp_path), "--port", "0")


def test_a_short_token_and_a_used_port_are_no_start(server: Any, model: Path) -> None:
    assert TOKEN_VARIABLE in refused("--model", str(model), "--port", "0", **{TOKEN_VARIABLE: "short"})
    port = server.url.rpartition(":")[2]
    assert "choose another" in refused("--model", str(model), "--port", port)


def test_a_missing_extra_is_named(tmp_path: Path, model: Path) -> None:
    code = (
        "import importlib.util as u, sys; find = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'prometheus_client' else find(name, *a); "
        "sys.argv = ['rsqa', 'serve']; from rsqa_pipeline.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "rsqa-pipeline[serve]" in done.stderr and done.stderr.count("\n") == 1
