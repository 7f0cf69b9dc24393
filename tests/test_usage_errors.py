"""Every mistake of a user is one line, exit code 2, found before work, with nothing written."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rsqa_pipeline.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
Words = list[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small project as the current folder, with a data file, a model without weights and a score table's place."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/demo").mkdir(parents=True)
    shutil.copytree(ROOT / "data/demo/corpus", tmp_path / "data/demo/corpus")
    (tmp_path / "rsqa_pipeline").symlink_to(ROOT / "rsqa_pipeline")
    (tmp_path / "pairs.csv").write_text("image,text\na.png,a ship\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "broken.yaml").write_text("{")
    (tmp_path / "notes.xyz").write_text("?")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "odd[/red]").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def score(**changed: str) -> Words:
    options = {"model": "model", "data": "pairs.csv", "out": "s.parquet", "format": "csv", "device": "cpu"} | {
        name.replace("_", "-"): value for name, value in changed.items()
    }
    return ["score", *(word for name, value in options.items() for word in (f"--{name}", value))]


def changed_profile(change: Callable[[dict[str, Any]], object]) -> Words:
    settings = yaml.safe_load((ROOT / "configs/profiles/demo.yaml").read_text())
    change(settings)
    Path("configs/profiles/changed.yaml").write_text(yaml.safe_dump(settings))
    return ["run", "--profile", "changed"]


CURATE = ["curate", "--scores", "pairs.csv", "--out", "kept.parquet", "--keep"]
MISTAKES: dict[str, tuple[Words | Callable[[], Words], str]] = {
    "unknown command": (["rnu"], "rnu"),
    "unknown option": (["run", "--frce"], "--frce"),
    "unknown profile": (["run", "--profile", "nosuch"], "demo"),
    "unknown asset": (["run", "nosuch"], "score_model_report"),
    "unknown asset with a limit": (["run", "nosuch", "--limit", "40"], "score_model_report"),
    "limit too small": (["run", "--limit", "-5"], "at least 30"),
    "plan of an unknown asset": (["plan", "nosuch"], "score_model_report"),
    "profile with an unknown key": (lambda: changed_profile(lambda s: s.update(sed=1)), "unknown key"),
    "profile without seeds": (lambda: changed_profile(lambda s: s["finetuned_models"].update(seeds=[])), "seeds"),
    "profile with a missing file": (
        lambda: changed_profile(lambda s: s["source_pairs"]["captions"].update(path="no/such.csv")),
        "no/such.csv",
    ),
    "profile that is not YAML": (["run", "--profile", "broken.yaml"], "cannot be read"),
    "two forms of the table": (["stages", "--dvc", "--svg"], "either --dvc or --svg"),
    "port out of range": (["ui", "--port", "99999"], "port"),
    "negative batch size": (score(batch_size="-1"), "batch-size"),
    "no workers": (score(workers="0"), "workers"),
    "missing model": (score(model="no/such/model"), "no/such/model"),
    "model that is a file": (score(model="pairs.csv"), "pairs.csv"),
    "model without weights": (score(model="hollow"), "safetensors"),
    "model without configuration": (score(model="images"), "config.json"),
    "missing data": (score(data="no.csv"), "no.csv"),
    "empty data file": (score(data="empty.csv"), "empty"),
    "empty data folder": (score(data="images", format="webdataset"), "empty"),
    "unknown format": (score(format="xls"), "format"),
    "missing images folder": (score(images="nowhere"), "nowhere"),
    "output that is a folder": (score(out="images"), "images"),
    "output below a file": (score(out="pairs.csv/s.parquet"), "pairs.csv"),
    "unknown device": (score(device="tpu"), "tpu"),
    "name with markup": (score(data="odd[/red]/no.csv"), "odd[/red]/no.csv"),
    "keep of zero": ([*CURATE, "0"], "up to 1"),
    "keep above one": ([*CURATE, "1.5"], "up to 1"),
    "missing scores": (["curate", "--scores", "no.parquet", "--out", "k.parquet", "--keep", "0.3"], "no.parquet"),
    "unknown pairs": (["pairs", "export", "p.parquet", "--asset", "nosuch"], "caption_preferences"),
    "init of missing data": (["init", "no.csv"], "no.csv"),
    "init of an unknown format": (["init", "notes.xyz"], "--format"),
    "init with images elsewhere": (["init", "pairs.csv"], "--images"),
    "init over a profile": (["init", "pairs.csv", "--name", "demo"], "not overwritten"),
}


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if "rsqa_pipeline" not in path.parts}


def refused(words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a refused command prints, after the checks that all refusals pass."""
    before = files()
    monkeypatch.setattr("sys.argv", ["rsqa", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2, shown
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and shown.out == "", shown
    assert files() == before
    return shown.err


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    mistake: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, named = MISTAKES[mistake]
    assert named in refused(words() if callable(words) else words, capsys, monkeypatch)


def test_a_used_port_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        words = ["ui", "--port", str(other.getsockname()[1])]
        assert "choose another" in refused(words, capsys, monkeypatch)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", ["score", "run"])
def test_a_gpu_that_is_not_there_is_refused(
    command: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        score(device="cuda")
        if command == "score"
        else changed_profile(lambda settings: settings["compute"].update(device="cuda"))
    )
    assert "no GPU" in refused(words, capsys, monkeypatch)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "images").chmod(0o500)
    assert "no permission" in refused(score(out="images/s.parquet"), capsys, monkeypatch)


def test_an_llava_file_of_instructions_has_no_captions(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"from": "human", "value": "<image>\nhow many?"}, {"from": "gpt", "value": "two"}]
    (place / "asked.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]))
    assert "no row with a caption" in refused(["init", "asked.json"], capsys, monkeypatch)
