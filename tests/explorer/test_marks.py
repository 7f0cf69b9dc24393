"""Marks: lines that are none are counted, agreement by hand, and pairs only where people prefer one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.explorer.marks import Mark, agreement, preference_pairs, read_marks


def row(
    key: str, state: str = "kept", score: float | None = 1.0, image: str | None = "a.png", question: str = ""
) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}] if question else []
    messages = [*turns, {"role": "assistant", "content": f"text of {key}"}]
    return {"key": key, "image_id": image, "image": image, "messages": messages, "score": score, "state": state}


def mark(key: str, decision: str | None = None, value: int | None = None, rater: str = "ana") -> Mark:
    return Mark(key, rater, decision, value, None)


def by_key(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in rows}


def test_lines_that_are_no_marks_are_named(tmp_path: Path) -> None:
    lines = [
        '{"key": "a", "decision": "keep", "mark": null, "rater": null}',
        '{"key": "a", "decision": "drop", "mark": null, "rater": null}',
        '{"key": "b", "decision": "maybe", "mark": null}',
        '{"key": "b", "decision": null, "mark": 6}',
        '{"key": "b", "decision": null, "mark": null, "note": " "}',
        '{"decision": "keep"}',
        "not json",
        "[1]",
    ]
    (tmp_path / "bob.jsonl").write_text("\n".join(lines))
    found = read_marks([tmp_path / "bob.jsonl"])
    assert found.marks == [Mark("a", "bob", "keep", None, None)]
    assert [fault.partition(": ")[2] for fault in found.faults] == [
        "bob has marked 'a' before",
        "decision is 'maybe', needs keep or drop",
        "mark is '6', needs 1 to 5",
        "neither decision nor mark nor note",
        "no key",
        "no key",
        "no key",
    ]


def test_a_sheet_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("label_key,better\na,A\n")
    with pytest.raises(DataError, match="decision, key, mark"):
        read_marks([tmp_path / "labels.csv"])
    with pytest.raises(DataError, match="cannot be read"):
        read_marks([tmp_path / "no.csv"])


def test_agreement_by_hand() -> None:
    samples = by_key(
        *(
            row(key, state, score)
            for key, state, score in [
                ("a", "kept", 4.0),
                ("b", "kept", 3.0),
                ("c", "dropped", 2.0),
                ("d", "quarantined", None),
                ("e", "kept", 0.0),
            ]
        )
    )
    marks = [mark("a", "keep", 5), mark("b", "drop", 4), mark("c", "drop", 2), mark("d", "drop", 1), mark("x", "keep")]
    marks += [mark("e", "keep", 1, "ana"), mark("e", "drop", 2, "bob")]
    measured = agreement(samples, marks, seed=0)
    assert measured.decisions is not None and (measured.decisions.value, measured.decisions.n) == (0.75, 4)
    assert measured.kappa is not None and measured.kappa.value == pytest.approx(0.5)  # (3/4 - 1/2) / (1/2)
    assert measured.rank_correlation == pytest.approx(1.0)  # 5, 4, 2, 1.5 against 4, 3, 2, 0
    assert (measured.marked, measured.undecided, measured.unknown, measured.against) == (5, 1, 1, ["b"])


def test_without_marks_nothing_is_defined() -> None:
    measured = agreement({}, [], seed=0)
    assert (measured.decisions, measured.kappa, measured.rank_correlation, measured.marked) == (None, None, None, 0)


def test_pairs_need_one_image_one_question_and_a_preference() -> None:
    samples = by_key(
        row("a"), row("b"), row("c"), row("d"), row("q", question="how many?"), row("p", question="how many?"),
        row("other", image="b.png"), row("none", image=None),
    )  # fmt: skip
    marks = [mark("a", "drop", 5), mark("b", "keep", 2), mark("c", "keep"), mark("d", "keep", 5)]
    marks += [mark("q", "keep"), mark("p", "drop"), mark("other", None, 1), mark("none", None, 1)]
    pairs = {(pair["chosen"], pair["rejected"]) for pair in preference_pairs(samples, marks)}
    names = {(chosen.removeprefix("text of "), rejected.removeprefix("text of ")) for chosen, rejected in pairs}
    # marks decide before keep and drop; a and d have equal marks, so keep decides; b, c and d are all kept
    assert names == {("a", "b"), ("c", "a"), ("d", "b"), ("d", "a"), ("q", "p")}
    families = {pair["family"] for pair in preference_pairs(samples, marks)}
    assert families == {"caption", "open_ended"}
