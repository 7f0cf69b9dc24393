"""Task files: their prompts are frozen, and their chance levels are computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from rsqa_pipeline.benchmarks.answers import MARKERS as VLM_MARKERS
from rsqa_pipeline.benchmarks.chance import CHANCE, chance_level
from rsqa_pipeline.benchmarks.clip_benchmark import MARKERS as CLIP_MARKERS
from rsqa_pipeline.benchmarks.reward_bench import MARKERS as SCORER_MARKERS
from rsqa_pipeline.benchmarks.task import TASK_FOLDER, BenchmarkTask, function_of, load_task, load_tasks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.reward_items import REWARD_TASKS


def task(name: str) -> BenchmarkTask:
    return load_task(TASK_FOLDER / f"{name}.yaml")


def test_every_file_belongs_to_one_kind_of_model() -> None:
    clip, vlm, scorer = load_tasks("clip"), load_tasks("vlm"), load_tasks("scorer")
    assert [t.name for t in clip] == ["classification", "retrieval"]
    assert sorted(t.source for t in scorer) == sorted([*REWARD_TASKS, "reward_pair"])
    assert len(clip + vlm + scorer) == len(list(TASK_FOLDER.glob("*.yaml")))
    assert all(t.higher_is_better for t in clip + vlm + scorer)


def test_class_templates_are_those_of_the_paper() -> None:
    assert task("classification").prompts == ["a satellite photo of {class}.", "a satellite image of {class}."]


@pytest.mark.parametrize(
    ("change", "fault"),
    [("nonsense: 1\n", ValidationError), ("name: other\n", ValueError), ("version: 0\n", ValidationError)],
)
def test_an_invalid_file_is_rejected(tmp_path: Path, change: str, fault: type[Exception]) -> None:
    text = (TASK_FOLDER / "count.yaml").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith(change.split(":")[0] + ":")]
    path = tmp_path / "count.yaml"
    path.write_text("\n".join(kept) + "\n" + change, encoding="utf-8")
    with pytest.raises(fault):
        load_task(path)


@pytest.mark.parametrize("key", ["marker", "chance"])
def test_every_function_of_a_shipped_task_exists_and_an_unknown_one_is_named(key: Literal["marker", "chance"]) -> None:
    for kind, markers in (("clip", CLIP_MARKERS), ("vlm", VLM_MARKERS), ("scorer", SCORER_MARKERS)):
        for each in load_tasks(kind):  # type: ignore[arg-type]
            known: Mapping[str, object] = CHANCE if key == "chance" else markers
            assert function_of(each, key, known)
            with pytest.raises(DataError, match=f"{key} 'guess' is unknown; known for {kind}: {next(iter(known))}"):
                function_of(each.model_copy(update={key: "guess"}), key, known)


def chances(name: str, items: list[dict[str, Any]]) -> list[float]:
    return [chance_level(task(name), metric, items) for metric in task(name).metrics]


def test_chance_levels_by_hand() -> None:
    answers = [{"answer": a} for a in ("yes", "yes", "Yes.", "no")]
    assert chances("presence", answers) == [0.75, 0.75]  # always yes
    assert chances("classification", [{"answer": a} for a in "abca"]) == pytest.approx([1 / 3, 1.0])
    assert chances("choice", [{"choices": ["a", "b"]}, {"choices": list("abcd")}]) == [0.375, 0.375]
    assert chances("grounding", [{"boxes": [[0, 0, 4, 4]]}] * 3) == [1.0, 1.0]
    retrieval = chances("retrieval", [{"captions": ["a", "b"]}, {"captions": ["c", "d"]}])
    assert retrieval[0] == pytest.approx(0.5)  # 2 of 4 texts are right
    assert retrieval[3] == pytest.approx(0.5)  # 1 of 2 images is right
    assert retrieval[1] == retrieval[4] == 1.0
