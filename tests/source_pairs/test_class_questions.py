"""Class questions: hand-checked right and wrong answers, balance, and the habits of poor answerers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Corruption, SourceFile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import image_text_pairs, instruction_samples
from rsqa_pipeline.source_pairs.class_questions import ClassQuestion, ask, corrupt_answer, tasks_for
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_karpathy

CLASSES = ["airport", "beach", "desert", "port", "river"]
CHOICE = ClassQuestion("choice", "Which?", None, ("port", "airport", "beach", "river"))
PRESENT = ClassQuestion("presence", "Is this a photo of an airport?", "airport", None)
NAME = ClassQuestion("scene_class", "What?", None, None)


def test_answers() -> None:
    assert [question.answer("airport") for question in (NAME, PRESENT, CHOICE)] == ["airport", "yes", "B"]
    assert [question.answer("port") for question in (NAME, PRESENT, CHOICE)] == ["port", "no", "A"]
    assert CHOICE.answer("desert") is None
    assert NAME.answer("storage_tanks") == "storage tanks"
    assert CHOICE.messages[0]["content"].split("\n")[1:5] == ["A. port", "B. airport", "C. beach", "D. river"]


@pytest.mark.parametrize(
    ("question", "kind", "expected"),
    [
        (NAME, "class_swap", ("port", 1.5)),
        (PRESENT, "class_swap", ("no", 1.5)),
        (CHOICE, "class_swap", ("A", 1.5)),
        (NAME, "wrong_image", ("port", 1.0)),
        (NAME, "vague", ("some area", 3.0)),
        (PRESENT, "vague", None),
        (CHOICE, "vague", ("A", 1.5)),
        (NAME, "count_change", None),
    ],
)
def test_habits_of_answerers(question: ClassQuestion, kind: str, expected: tuple[str, float] | None) -> None:
    assert corrupt_answer(question, kind, "airport", CLASSES) == expected  # type: ignore[arg-type]


def test_questions_are_balanced_and_answerable() -> None:
    answers: Counter[str | None] = Counter()
    letters: Counter[str | None] = Counter()
    for key in range(600):
        presence = ask("presence", "airport", CLASSES, str(key))
        answers[presence.answer("airport")] += 1
        choice = ask("choice", "airport", CLASSES, str(key))
        letters[choice.answer("airport")] += 1
        assert choice.choices is not None
        assert len(set(choice.choices)) == 4
        assert "port" in choice.choices
    assert 240 < answers["yes"] < 360
    assert answers["yes"] + answers["no"] == 600
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 100


def test_few_classes_allow_few_kinds_of_question() -> None:
    assert tasks_for(["a"]) == []
    assert tasks_for(["a", "b", "c"]) == ["scene_class", "presence"]
    assert tasks_for(CLASSES) == ["scene_class", "presence", "choice"]
    assert ask("presence", "a", ["a", "b"], "k").asked in ("a", "b")


def class_source(folder: Path, corruption: Corruption | None) -> SourceFile:
    return SourceFile(
        format="class_questions", path=str(folder / "dataset.json"), images=str(folder / "images"),
        scene_class_from_name=True, corruption=corruption,
    )  # fmt: skip


def test_run_corrupts_half_of_the_corpus_and_records_it(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 200, "test": 6})
    (tmp_path / "images" / "airport_train0.jpg").write_bytes(b"")
    source = class_source(tmp_path, Corruption(share=0.5, sources=["class_swap", "vague"]))
    changed = settings(tmp_path, instructions=source, instruction_samples=450)
    metrics = instruction_samples.run({}, tmp_path / "out", changed, SilentLogger())
    samples = read_table(tmp_path / "out" / "samples.parquet")
    truth = {row["sample_id"]: row for row in read_table(tmp_path / "out" / "truth.parquet")}
    assert metrics["input_rows"] == 450 == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert metrics["quarantined_rows"] == metrics["quarantined/zero_bytes"] > 0
    assert {row["task"] for row in samples} == {"scene_class", "presence", "choice"}
    assert 0.35 < metrics["corpus_corrupted_share"] < 0.65
    for sample in samples:
        known = truth[sample["sample_id"]]
        assert [turn["role"] for turn in sample["messages"]] == ["user", "assistant"]
        assert sample["split"] in ("corpus", "preference")
        assert (known["corruption"] is None) == (sample["true_quality"] == 5.0) == (sample["source"] == "human")
        assert known["corruption"] is None or sample["split"] == "corpus"
        if sample["task"] == "scene_class" and known["corruption"] is None:
            assert sample["messages"][1]["content"] == sample["scene_class"].replace("_", " ")


def test_captions_and_questions_of_an_image_are_in_one_split(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    for stage, name in ((image_text_pairs, "captions"), (instruction_samples, "questions")):
        stage.run({}, tmp_path / name, settings(tmp_path), SilentLogger())
    splits: dict[str, set[str]] = {}
    for name in ("captions", "questions"):
        for row in read_table(tmp_path / name / "samples.parquet"):
            splits.setdefault(row["image_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_conversations_cannot_be_corrupted(tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text("[]")
    source = SourceFile(
        format="llava", path=str(tmp_path / "talk.json"), corruption=Corruption(share=0.5, sources=["vague"])
    )
    with pytest.raises(DataError, match="needs format class_questions"):
        instruction_samples.run({}, tmp_path / "out", settings(tmp_path, instructions=source), SilentLogger())
