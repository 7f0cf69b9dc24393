"""Every command and example of docs/reward_server.md runs, against a server that was started as the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rsqa_pipeline.serving.client import RewardClient
from tests.serving.conftest import TOKEN, Server, start_server

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reward_server.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_command_that_starts_it(model: Path) -> None:
    (line,) = [line for line in blocks("sh")[0].splitlines() if line.startswith("rsqa serve")]
    words = shlex.split(line)[2:]
    model_at, port_at = words.index("--model"), words.index("--port")
    rest = [word for at, word in enumerate(words) if at not in (model_at, model_at + 1, port_at, port_at + 1)]
    assert start_server(model, *rest).stop() == 130


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
@pytest.mark.parametrize("number", range(1, 4))
def test_a_request_with_curl(number: int, server: Server) -> None:
    command = blocks("sh")[number].replace("http://127.0.0.1:8000", server.url)
    assert command.startswith("curl ")
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "RSQA_REWARD_TOKEN": TOKEN},
        check=True,
    )
    assert "error" not in json.loads(done.stdout) and json.loads(done.stdout)["model_version"]


@pytest.mark.parametrize("number", range(3))
def test_a_reward_function(
    number: int, server: Server, client: RewardClient, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(image, tmp_path / "harbour.png")
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[number].replace("http://127.0.0.1:8000", server.url)
    names = {"token": TOKEN}
    exec(compile(code, str(PAGE), "exec"), names)
    (reward,) = names["rewards"]
    value = reward["overall"] if isinstance(reward, dict) else reward
    assert value == pytest.approx(client.score("harbour.png", "How many ships?", ["two"])[0], abs=1e-5)
