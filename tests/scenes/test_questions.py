from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.scenes.asking import LETTERS, UnknownQuestionError
from rsqa_pipeline.scenes.questions import (
    ANSWERERS,
    BENCHMARK_TASKS,
    TASKS,
    Question,
    ask,
    benchmark_questions,
    instruction_questions,
)
from rsqa_pipeline.scenes.truth import BENCHMARK_SEEDS, SceneTruth, sample_scene


@cache
def benchmark() -> list[Question]:
    return [
        question
        for seed in BENCHMARK_SEEDS[:500]
        for question in benchmark_questions(sample_scene(seed), np.random.default_rng(seed))
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("how many ships are there?", "2"),
        ("how many trees are there?", "0"),
        ("are there any tanks in this image?", "yes"),
        ("are there any cars in this image?", "no"),
        ("are there more ships than tanks?", "yes"),
        ("are there more tanks than ships?", "no"),
        ("is this a rural or an urban area?", "urban"),
        ("what class of scene is this?", "harbour"),
        ("describe the ships.", "two red ships are moored on the left."),
        ("where is the tank?", "the tank is in the top right, to the right of the ships."),
        ("where are the ships from the tanks?", "the ships are to the left of the tank."),
        ("where are the cars?", "there are no cars in this image."),
        ("what land cover does this image show?", "the land cover of this harbour is piers and open water."),
        ("where is the white tank? give its box.", "[40, 10, 51, 21]"),
        ("who owns this place?", "it cannot be told, because an aerial image does not show owners."),
        (
            "describe this image.",
            "this is a harbour with piers and open water. two red ships are moored on the left."
            " one white tank is built in the top right.",
        ),
        ("which colour do the ships have?\nA. blue\nB. white\nC. red\nD. black\nanswer with one letter.", "C"),
    ],
)
def test_answers_by_hand(harbour: SceneTruth, text: str, answer: str) -> None:
    assert ask(harbour, text).answer == answer


@pytest.mark.parametrize("text", ["", "how many unicorns are there?", "which?\nA. x\nanswer with one letter."])
def test_an_unknown_question_is_refused(harbour: SceneTruth, text: str) -> None:
    with pytest.raises(UnknownQuestionError):
        ask(harbour, text)


@given(st.integers(0, 10_000))
def test_a_question_is_restored_from_its_text(seed: int) -> None:
    """From its text alone, a stored question gives the same answer, choices and boxes."""
    scene = sample_scene(seed)
    rng = np.random.default_rng(seed)
    for question in [*instruction_questions(scene, rng), *benchmark_questions(scene, rng)]:
        assert ask(scene, question.question) == question
        assert all(isinstance(write(scene, question), str) for write in ANSWERERS.values())


def test_questions_are_deterministic(any_scene: SceneTruth) -> None:
    first, second = (instruction_questions(any_scene, np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert len({question.question for question in first}) == len(first) >= 7


def test_every_task_is_asked() -> None:
    assert {question.task for question in benchmark()} == set(BENCHMARK_TASKS)
    asked = [q for seed in range(30) for q in instruction_questions(sample_scene(seed), np.random.default_rng(seed))]
    assert {question.task for question in asked} == set(TASKS)
    assert any(question.answer.startswith("it cannot be told, because") for question in asked)


def test_no_answer_can_be_guessed() -> None:
    answers = {task: Counter(q.answer for q in benchmark() if q.task == task) for task in BENCHMARK_TASKS}
    for task in ("presence", "comparison", "rural_urban"):
        assert 0.42 < answers[task].most_common(1)[0][1] / answers[task].total() < 0.58
    assert set(answers["count"]) == {str(n) for n in range(7)}
    assert answers["count"].most_common(1)[0][1] < 0.25 * answers["count"].total()
    assert set(answers["choice"]) == set(LETTERS)
    assert max(answers["choice"].values()) < 0.32 * answers["choice"].total()


def test_multiple_choice_has_one_right_option() -> None:
    for question in benchmark():
        if question.task == "choice":
            assert question.choices is not None
            assert len(set(question.choices)) == 4
            assert question.question.split("\n")[1] == f"A. {question.choices[0]}"


def test_grounding_has_one_box() -> None:
    for question in benchmark():
        if question.task == "grounding":
            assert question.boxes is not None
            assert len(question.boxes) == 1
            assert question.answer == str(list(question.boxes[0]))


def test_answerers_have_their_habits(harbour: SceneTruth) -> None:
    count = ask(harbour, "how many ships are there?")
    assert {name: write(harbour, count) for name, write in ANSWERERS.items()} == {
        "reference": "2",
        "generalist": "2",
        "hasty": "0",
        "overcounter": "3",
        "guesser": "4",
        "constant": "2",
        "rambler": ANSWERERS["rambler"](harbour, count),
        "blank": "an image.",
    }
    assert ANSWERERS["hasty"](harbour, ask(harbour, "what class of scene is this?")) == "beach"
    assert ANSWERERS["guesser"](harbour, ask(harbour, "where is the tank?")).startswith(
        "the tanks are in the bottom left"
    )
