"""Right and wrong answers: what counts as right, and class questions parsed back from their text."""

import pytest

from rsqa_pipeline.preference_data.answers import class_answers, is_right, other_references, wrong_answers
from rsqa_pipeline.preference_data.candidate import Candidate, Subject
from rsqa_pipeline.source_pairs.class_questions import ask, corrupt_answer, tasks_for

CLASSES = ["airport", "beach", "dense_residential", "park", "port", "storage_tanks"]


@pytest.mark.parametrize(
    ("task", "answer", "reference", "right"),
    [
        ("presence", " Yes. ", "yes", True),
        ("presence", "no", "yes", False),
        ("presence", "", "yes", False),
        ("presence", "yes or no", "yes", False),
        ("scene_class", "storage tanks", "storage tanks", True),
        # Boxes of 10 x 10 px moved by 2 px: overlap 80 of 120; by 5 px: 50 of 150.
        ("grounding", "[2, 0, 12, 10]", "[0, 0, 10, 10]", True),
        ("grounding", "[5, 0, 15, 10]", "[0, 0, 10, 10]", False),
        ("grounding", "on the left", "[0, 0, 10, 10]", False),
    ],
)
def test_is_right(task, answer, reference, right):
    assert is_right(task, answer, reference) is right


@pytest.mark.parametrize("scene_class", CLASSES)
@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
def test_class_question_is_parsed_back_from_its_text(scene_class, key):
    for task in tasks_for(CLASSES):
        question = ask(task, scene_class, CLASSES, key)
        reference = question.answer(scene_class)
        found = class_answers(Subject("i", "i.png", tuple(question.messages), task), scene_class, reference, CLASSES)
        expected = {kind: corrupt_answer(question, kind, scene_class, CLASSES) for kind in ("class_swap", "vague")}
        by_source = {candidate.source: candidate.text for candidate in found}
        assert by_source["reference"] == reference
        for kind, wrong in expected.items():
            assert by_source.get(kind) == (wrong[0] if wrong else None)


def subject(number: int, task: str = "count") -> Subject:
    return Subject(f"image-{number}", "x", ({"role": "user", "content": "how many?"},), task)


def test_other_reference_has_the_same_task_and_is_wrong():
    subjects = [subject(i) for i in range(6)] + [subject(7, "presence")]
    answers = dict(zip((s.key for s in subjects), ["1", "2", "2", "3", "1", "5", "yes"], strict=True))
    drawn = other_references(subjects, answers, seed=1)
    assert subjects[-1].key not in drawn  # no other answer to a question of this task is known
    for one in subjects[:-1]:
        assert drawn[one.key].text in {"1", "2", "3", "5"} - {answers[one.key]}


def test_wrong_answers_are_distinct_and_include_all_of_the_models():
    asked = subject(0)
    habits = [Candidate(asked, text, f"habit {text}") for text in ("3", "4", "4", "5", "6")]
    own = [Candidate(asked, text, "vlm") for text in ("9", "3", "8", "9")]
    found = wrong_answers("count", "3", habits, own, seed=1)
    texts = [candidate.text for candidate in found]
    assert texts[:2] == ["9", "8"]
    assert len(texts) == len(set(texts)) == 4 and set(texts[2:]) <= {"4", "5", "6"}
