from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.claims import Mention, read_claims
from rsqa_pipeline.scenes.fluency import clarity
from rsqa_pipeline.scenes.marks import Marks, mark_answer, mark_caption
from rsqa_pipeline.scenes.questions import ANSWERERS, ask
from rsqa_pipeline.scenes.truth import SceneTruth, sample_scene

VOCABULARY = """three red ships are moored on the left of a harbour with piers and open water no 7 99999999999999
    one two tanks tank houses thing things white to the left of above below . , some several bridge top right airport
    dense residential area [1, 2, 3, 4] yes A cannot because 💥 é"""
WORDS = sorted(set(VOCABULARY.split()))
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))
questions = st.sampled_from(
    [
        "how many ships are there?",
        "are there any tanks in this image?",
        "are there more ships than tanks?",
        "is this a rural or an urban area?",
        "what class of scene is this?",
        "where is the white tank? give its box.",
        "where is the red tree? give its box.",
        "describe the ships.",
        "describe the trees.",
        "who owns this place?",
        "which colour do the ships have?\nA. red\nB. blue\nC. white\nD. black\nanswer with one letter.",
        "an unknown question?",
        "",
    ]
)


def in_range(marks: Marks) -> bool:
    return all(1 <= mark <= 5 for mark in (*astuple(marks), marks.mean))


@given(st.integers(0, 500), texts)
@example(0, "")
@example(0, "ships " * 100_000)
@example(0, "\ud800")
def test_marks_of_any_caption_are_in_range(seed: int, text: str) -> None:
    assert in_range(mark_caption(sample_scene(seed), text))


@given(st.integers(0, 500), questions, texts)
@example(0, "how many ships are there?", "9" * 50_000)
@example(0, "", "")
def test_marks_of_any_answer_are_in_range(seed: int, question: str, text: str) -> None:
    assert in_range(mark_answer(sample_scene(seed), question, text))


@pytest.mark.parametrize("text", ["", "   ", "...", "\n\t"])
def test_an_empty_text_gets_the_lowest_mark(harbour: SceneTruth, text: str) -> None:
    assert mark_caption(harbour, text).mean == 1
    assert mark_answer(harbour, "how many ships are there?", text).mean == 1


@pytest.mark.parametrize("text", ["hello world", "ships " * 3000, "the the the of of", "lorem ipsum dolor " * 500])
def test_off_topic_repeated_and_huge_texts_get_low_marks(harbour: SceneTruth, text: str) -> None:
    assert mark_caption(harbour, text).mean < 2.7


def test_claims_by_hand() -> None:
    claims = read_claims("There are 3 RED ships moored in the top left, above two tanks, in a harbour. A bridge!")
    assert claims.mentions == [
        Mention("ship", 3, "red", "top left", "moored", ("above", "tank")),
        Mention("tank", 2),
    ]
    assert claims.scenes == {"harbour"}
    assert claims.aliens == {"bridge"}
    assert read_claims("a dense residential area with a storage tank").scenes == {"dense_residential"}
    assert read_claims("no ships").mentions == [Mention("ship", 0)]


def test_a_correct_absence_is_not_a_false_claim(harbour: SceneTruth) -> None:
    assert mark_caption(harbour, "a harbour without cars.").relevance == 5
    assert mark_caption(harbour, "a harbour with cars.").relevance == 3
    assert mark_caption(harbour, "a harbour without ships.").relevance < 3


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("two red ships are moored on the left.", 5, 5),
        ("an aerial photo of a harbour.", 5, 5),
        ("three ship are moored.", 4.5, 4.5),
        ("ships red two left the on on moored are are", 1, 1.5),
        ("a picture of some things, maybe several.", 3, 4),
        ("two red ships are moored on the left. " * 20, 1, 1.5),
        ("zxcv qwer asdf", 3, 3),
    ],
)
def test_clarity_by_hand(text: str, low: float, high: float) -> None:
    assert low <= clarity(text) <= high


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("how many ships are there?", ["2", "two", "2.", "there are 2 ships."], ["3", "", "2 or 3", "yes", "-"]),
        ("are there any tanks in this image?", ["yes", "Yes.", "yes, there are."], ["no", "yes and no", "2", "maybe"]),
        ("are there more tanks than ships?", ["no"], ["yes"]),
        ("is this a rural or an urban area?", ["urban", "an urban area."], ["rural", "rural or urban"]),
        ("what class of scene is this?", ["harbour", "a harbour."], ["beach", "harbour or beach", "ships"]),
        ("where is the white tank? give its box.", ["[40, 10, 51, 21]"], ["[0, 0, 9, 9]", "[40, 10]", "top right"]),
        (
            "which colour do the ships have?\nA. red\nB. blue\nC. white\nD. black\nanswer with one letter.",
            ["A", "a", "A."],
            ["B", "red or A", "A B", "E"],
        ),
    ],
)
def test_close_ended_answers_by_hand(harbour: SceneTruth, question: str, right: list[str], wrong: list[str]) -> None:
    worst_right = min(mark_answer(harbour, question, answer).mean for answer in right)
    best_wrong = max(mark_answer(harbour, question, answer).mean for answer in wrong)
    assert worst_right > 4.5
    assert best_wrong < 3


def test_a_box_is_graded_by_its_overlap(harbour: SceneTruth) -> None:
    question = "where is the white tank? give its box."
    marks = [
        mark_answer(harbour, question, text).mean
        for text in ("[40, 10, 51, 21]", "[41, 11, 52, 22]", "[50, 20, 60, 30]")
    ]
    assert marks[0] > marks[1] > marks[2]


def test_refusing_an_unanswerable_question_is_right(harbour: SceneTruth) -> None:
    question = "who owns this place?"
    full = mark_answer(harbour, question, "it cannot be told, because an aerial image does not show owners.")
    bare = mark_answer(harbour, question, "it cannot be told.")
    invented = mark_answer(harbour, question, "two red ships own this harbour.")
    assert full.mean == 5
    assert full.mean > bare.mean > 3 > invented.mean


def test_open_answers_by_hand(harbour: SceneTruth) -> None:
    question = "describe the ships."
    answers = [
        "two red ships are moored on the left.",
        "two red ships are moored there.",
        "five blue ships are moored on the right.",
        "there are no ships in this image.",
    ]
    marks = [mark_answer(harbour, question, answer).mean for answer in answers]
    assert marks == sorted(marks, reverse=True)
    assert marks[0] == 5
    assert marks[3] < 2.5


@given(st.integers(0, 2000))
def test_the_reference_is_marked_best(seed: int) -> None:
    scene = sample_scene(seed)
    for text in ("describe this image.", "how many ships are there?", "what land cover does this image show?"):
        question = ask(scene, text)
        reference = mark_answer(scene, text, question.answer).mean
        assert reference >= 4.8
        assert all(mark_answer(scene, text, write(scene, question)).mean <= reference for write in ANSWERERS.values())


def test_an_unknown_question_is_marked_as_a_statement(harbour: SceneTruth) -> None:
    text = "two red ships are moored on the left of a harbour."
    assert mark_answer(harbour, "is the harbour busy?", text) == mark_caption(harbour, text)
    assert set(CAPTIONERS) >= {"expert", "swapper", "counter", "vague"}
