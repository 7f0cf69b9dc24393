"""Short answers: which replies count as right."""

from __future__ import annotations

import pytest

from rsqa_pipeline.benchmarks.vqa import choice_lines, is_correct, is_letter_correct, normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Three  Storage-Tanks.", "3 storage tanks"),
        ("storage_tanks", "storage tanks"),
        ("YES!", "yes"),
        ("03", "3"),
        ("3.0", "3"),
        ("2.5", "2.5"),
        ("1,200", "1200"),
        ("-3", "-3"),
        ("twenty", "20"),
        ("\uff13", "3"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, plain: str) -> None:
    assert normalise(text) == plain


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("three", "3", True),
        ("3.", "three", True),
        ("Yes", "yes", True),
        ("", "yes", False),
        (None, "yes", False),
        ("...", "...", False),
        ("y", "yes", False),
        ("yes there are", "yes", False),
        ("13", "3", False),
        ("-3", "3", False),
        ("2.5", "25", False),
    ],
)
def test_only_the_whole_answer_is_right(said: str | None, answer: str, right: bool) -> None:
    assert is_correct(said, answer) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [("B", True), ("b", True), ("(B)", True), ("B.", True), ("A", False), ("B. river", False), ("river", False)],
)
def test_only_the_exact_letter_counts(said: str, right: bool) -> None:
    assert is_letter_correct(said, "B") is right


def test_an_empty_reply_never_matches_a_letter() -> None:
    assert not is_letter_correct("", "")
    assert not is_letter_correct(None, "B")


def test_choices_are_lettered() -> None:
    assert choice_lines(["river", "beach"]) == "A. river\nB. beach"
