"""``rsqa score`` on files: real models, kills, expected scores of the released checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from tests.curated_subsets.random_model import save_random_model

ROWS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score model on the shipped VLM, and a LLaVA file with valid and broken rows."""
    folder = tmp_path_factory.mktemp("score")
    save_random_model(folder / "model")
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    (folder / "broken.png").write_bytes(b"no image")
    rows = [
        {
            "id": f"row{n}",
            "image": f"{n % 4}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nhow many ships?"},
                {"from": "gpt", "value": f"{n} ships"},
            ],
        }
        for n in range(ROWS)
    ]
    rows[3]["image"] = "broken.png"
    rows[5]["id"] = "row4"
    (folder / "data.json").write_text(json.dumps(rows))
    return folder


def _command(folder: Path, out: Path) -> list[str]:
    files = ["--model", str(folder / "model"), "--data", str(folder / "data.json"), "--out", str(out)]
    return ["score", *files, "--format", "llava", "--shard-rows", "4", "--batch-tokens", "300", "--device", "cpu"]


def test_every_row_is_scored_or_quarantined_with_a_reason(folder: Path, tmp_path: Path) -> None:
    reply = CliRunner().invoke(app, _command(folder, tmp_path / "scores.parquet"))
    assert reply.exit_code == 0, reply.output
    scores = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    faults = pq.read_table(tmp_path / "scores.quarantine.parquet").to_pylist()
    assert len(scores) + len(faults) == ROWS
    assert {fault["reason"] for fault in faults} == {"not_an_image", "duplicate_id"}
    assert len({row["score"] for row in scores}) > 30 and len({row["model_version"] for row in scores}) == 1
    assert not list(tmp_path.glob("*.shards")) and not list(tmp_path.glob("*.scratch"))


def test_killed_run_is_resumed_and_gives_the_same_table(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    assert CliRunner().invoke(app, _command(folder, whole)).exit_code == 0
    command = [sys.executable, "-m", "rsqa_pipeline.cli.main", *_command(folder, out)]
    shards = tmp_path / "killed.shards"
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(shards.glob("*.scores.parquet"))) < 2:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert 2 <= len(list(shards.glob("*.scores.parquet"))) < ROWS // 4
    command[command.index("--batch-tokens") + 1] = "120"
    assert CliRunner().invoke(app, command[3:]).exit_code == 0
    found, expected = pq.read_table(out), pq.read_table(whole)
    assert found.drop_columns("score").equals(expected.drop_columns("score"))  # batches change a score's last bits
    np.testing.assert_allclose(found.column("score"), expected.column("score"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_scoring_at_once_and_says_how_to_resume(
    number: int, workers: str, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped.parquet"
    command = [sys.executable, "-m", "rsqa_pipeline.cli.main", *_command(folder, out), "--workers", workers]
    command[command.index("--shard-rows") + 1] = "1"
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        if list(tmp_path.glob("stopped.shards/*.scores.parquet")):
            break
        time.sleep(0.005)
    sent = time.monotonic()
    running.send_signal(number)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130 and time.monotonic() - sent < 5, errors
    assert "run the same command again to resume" in errors and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # no worker is left in its session
        for _ in range(50):
            os.killpg(running.pid, 0)
            time.sleep(0.1)
    assert not out.exists()


def test_wrong_image_folder_scores_nothing_and_names_the_option(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    command = [*_command(folder, tmp_path / "scores.parquet"), "--images", str(tmp_path / "elsewhere")]
    reply = CliRunner().invoke(app, command)
    assert reply.exit_code != 0 and "missing_image" in reply.output
    assert "nothing scored" in str(reply.exception) and "--images" in str(reply.exception)
    assert str(tmp_path / "elsewhere") in str(reply.exception)


def test_clip_scores_the_same_rows_and_caches_image_vectors(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.parquet"
    command = _command(folder, out)
    command[2] = str(CHECKPOINTS / "clip")
    reply = CliRunner().invoke(app, [*command, "--clip", "--workers", "2"])
    assert reply.exit_code == 0, str(reply.exception)
    scores = pq.read_table(out).to_pylist()
    assert len(scores) + pq.read_table(tmp_path / "clip.quarantine.parquet").num_rows == ROWS
    assert all(-1 <= row["score"] <= 1 for row in scores)
    assert len(list((tmp_path / "clip.embeddings").rglob("*.f32"))) == 4
    reply = CliRunner().invoke(app, [*command, "--clip", "--clip-text", "windowed_mean"])
    wide = pq.read_table(out).to_pylist()
    assert reply.exit_code == 0, str(reply.exception)
    assert {row["model_version"] for row in wide} == {scores[0]["model_version"] + ".windowed_mean"}
    old = f"score@{scores[0]['model_version'][:12]}"
    assert [row[old] for row in wide] == [row["score"] for row in scores]
    assert [row["score"] for row in wide] == pytest.approx([row["score"] for row in scores], abs=1e-5)  # short texts


def test_unknown_format_error_lists_the_known_formats(folder: Path, tmp_path: Path) -> None:
    command = [word if word != "llava" else "excel" for word in _command(folder, tmp_path / "scores.parquet")]
    reply = CliRunner().invoke(app, command)
    assert reply.exit_code == 1 and "'karpathy'" in str(reply.exception)


def test_prepared_tensors_get_the_scores_of_the_model(folder: Path, tmp_path: Path) -> None:
    ids = torch.randint(10, 200, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    np.savez(tmp_path / "rows.npz", input_ids=ids.numpy(), attention_mask=mask.numpy())
    _score_tensors(folder / "model", tmp_path / "rows.npz", tmp_path / "out.parquet")
    with torch.inference_mode():
        expected = ScoreModel.from_pretrained(folder / "model")(ids, mask)
    assert pq.read_table(tmp_path / "out.parquet").column("score").to_pylist() == expected.tolist()
    np.savez(tmp_path / "rows.npz", attention_mask=mask.numpy())
    with pytest.raises(AssertionError, match="input_ids missing"):
        _score_tensors(folder / "model", tmp_path / "rows.npz", tmp_path / "out.parquet")


def test_released_checkpoint_gives_its_expected_scores(shared_data: Path, tmp_path: Path) -> None:
    released = shared_data / "parity" / "scorers_checkpoint"
    _score_tensors(released, released / "inputs_and_expected.npz", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").column("score").to_numpy()
    np.testing.assert_allclose(found, np.load(released / "inputs_and_expected.npz")["expected_scores"], atol=1e-4)


def _score_tensors(model: Path, data: Path, out: Path) -> None:
    command = ["score", "--model", str(model), "--data", str(data), "--out", str(out), "--format", "tensors"]
    reply = CliRunner().invoke(app, command)
    assert reply.exit_code == 0, str(reply.exception)
