"""Every shell command of the documents is valid, and is run: here, or by a named test that really contains it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from tests.curated_subsets.random_model import save_random_model
from tests.docs.commands import (
    COMMANDS,
    NOT_RUN,
    PAGES,
    ROOT,
    RUN_ELSEWHERE,
    Command,
    blocks,
    commands_of,
    is_not_run,
    run_elsewhere,
)

COMMON = {"--profile"}
"""Options of nearly every command, which a test need not give as its page does."""
RUN_HERE = {page: [c for c in commands_of(page) if not is_not_run(c) and run_elsewhere(c) is None] for page in PAGES}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "rsqa"], ids=str)
def test_the_command_line_accepts_it(command: Command) -> None:
    """Subcommand, options, arguments and their types; nothing is run."""
    _, *words = command.words
    parser = get_command(app)
    while hasattr(parser, "commands"):
        name = words.pop(0)
        assert name in parser.commands, f"no command {name!r}; known: {', '.join(parser.commands)}"
        parser = parser.commands[name]
    parser.make_context(str(parser.name), words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if run_elsewhere(c) is not None], ids=str)
def test_the_named_test_contains_it(command: Command) -> None:
    """The test's module, with what it imports from ``tests``, reads the page or has the command's verb and options."""
    place = run_elsewhere(command)
    assert place is not None
    file, _, name = place.partition("::")
    source = (ROOT / file).read_text(encoding="utf-8")
    if not name:
        assert any(_parts(command) <= set(re.findall(r"[\w-]+", line)) for line in source.splitlines()), place
        return
    tree = ast.parse(source)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, place
    imported = re.findall(r"^from (tests[\w.]+) import", source, flags=re.MULTILINE)
    sources = [source, *((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8") for module in imported)]
    texts = {node.value for text in sources for node in ast.walk(ast.parse(text)) if _is_text(node)}
    reads_page = bool(texts & {command.page, Path(command.page).name})
    assert reads_page or _parts(command) <= texts, f"{place} lacks {_parts(command) - texts}"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _parts(command: Command) -> set[str]:
    """Verb and options, with the program if it is another one than `rsqa`, which tests start in several ways.

    For ``make`` those of the target's recipe, unless the target stands in CI itself.
    """
    words = command.words
    if words[0] == "make" and not (run_elsewhere(command) or "").startswith("."):
        recipe = re.search(rf"^{words[1]}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert recipe is not None
        words = recipe[1].split()
    return (
        set(words[1:2] if words[0] == "rsqa" else words[:2]) | {word for word in words if word.startswith("-")} - COMMON
    )


def test_no_entry_is_left_over() -> None:
    for page, entries in RUN_ELSEWHERE.items():
        found = [command.text for command in commands_of(ROOT / page)]
        assert not [begin for begin in entries if not any(text.startswith(begin) for text in found)], page
    assert not [begin for begin in NOT_RUN if not any(command.text.startswith(begin) for command in COMMANDS)]


def test_commands_stand_in_blocks_that_are_collected() -> None:
    """No block without language, or of another shell, holds a command that these tests would not see."""
    for page in PAGES:
        for language in ("", "bash", "shell", "console", "text"):
            lines = "".join(blocks(page, language)).splitlines()
            assert not [line for line in lines if line.startswith(("rsqa ", "make ", "dvc ", "pip "))], page


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[:2] == ["pip", "install"]], ids=str)
def test_the_extra_exists(command: Command) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.fullmatch(r"rsqa-pipeline\[(\w+)\]", command.words[2])
    assert named is not None and named[1] in extras


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented") / "model"
    save_random_model(folder)
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted, as the current folder: the demo's model, profiles, a file, a rule, scores."""
    shutil.copytree(model, tmp_path / "data/demo/score_model/score_model/model")
    (tmp_path / "data/demo/corpus").symlink_to(ROOT / "data/demo/corpus")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "docs/images").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(8):
        name = f"image_{number // 2}.png"
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        turns = [{"from": "human", "value": "<image>\nHow many ships?"}, {"from": "gpt", "value": f"{number} ships"}]
        rows.append({"id": f"r{number}", "image": name, "conversations": turns})
    shutil.copy(tmp_path / "image_0.png", tmp_path / "harbour.jpg")
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    (tmp_path / "rule.yaml").write_text("{selector: score_model, caption_fraction: 0.5, instruction_fraction: 0.5}\n")
    scores = {"key": [row["id"] for row in rows], "score": pa.array([float(n) for n in range(8)], pa.float32())}
    pq.write_table(pa.table(scores), tmp_path / "new_scores.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


REPLACED = {"openai/clip-vit-large-patch14": str(CHECKPOINTS / "clip")}
"""Models of a hub -> a shipped one."""


@pytest.mark.parametrize("page", [page for page, commands in RUN_HERE.items() if commands], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    """In order, in one folder."""
    for command in RUN_HERE[page]:
        program, *words = command.words
        assert program == "rsqa", f"{command}: name the test that runs it in RUN_ELSEWHERE"
        done = CliRunner().invoke(app, [REPLACED.get(word, word) for word in words])
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).exists(), command


def test_a_published_subset_names_its_rule_and_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    page = ROOT / "docs/publish.md"
    for command in commands_of(page)[:2]:
        assert CliRunner().invoke(app, command.words[1:]).exit_code == 0
    (code,) = blocks(page, "python")
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    rows = names["rows"]
    assert rows.num_rows == 2 and rows[0]["image"].size == (64, 64)
    (version,) = set(pq.read_table("scores.parquet")["model_version"].to_pylist())
    card = Path("published/README.md").read_text(encoding="utf-8")
    assert f"| version of the score model | {version} |" in card
    assert '"caption_fraction":0.3' in card and "| seed | 0 |" in card and "| rows, train | 2 |" in card


def test_the_example_of_the_readme_runs(folder: Path) -> None:
    shutil.copy("new_scores.parquet", "scores.parquet")
    (code,) = blocks(ROOT / "README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert all(isinstance(score, float) for score in names["scores"]) and names["kept"]["kept"].sum() == 2


def test_the_settings_for_many_gpus_are_accepted() -> None:
    profile = yaml.safe_load((ROOT / "configs/profiles/demo.yaml").read_text(encoding="utf-8"))
    for block in blocks(ROOT / "docs/many_gpus.md", "yaml"):
        for section, settings in yaml.safe_load(block).items():
            profile[section] |= settings
    made = Profile.model_validate(profile)
    assert made.score_model.fsdp and made.compute.launch[0] == "torchrun" and made.curated_subsets.workers == 8
