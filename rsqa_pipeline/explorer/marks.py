"""Marks that a person made on the page: read back, compared with the rule and the score, and made into pairs.

One line of a JSONL file, with the same columns as a CSV file::

    {"key": "9f..", "decision": "keep", "mark": 4, "note": "wrong colour", "rater": "ana", "state": "dropped",
     "score": 0.41}
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import canonical_messages, pair_id
from rsqa_pipeline.statistics import Interval, cohen_kappa, wilson

DECISIONS = ("keep", "drop")
RESAMPLES = 1000
_NEEDED = {"key", "decision", "mark"}
_ESCAPED = re.compile(r" [ \t\r\n]*[=+\-@\t\r\n＝＋－＠]")
"""How the page writes a cell that a spreadsheet would read as a formula: with a space before it."""


@dataclass(frozen=True)
class Mark:
    """What one rater says about one sample; at least one of decision, mark and note is there."""

    key: str
    rater: str
    decision: str | None
    """``keep`` or ``drop``."""
    mark: int | None
    """1 (bad) to 5 (good)."""
    note: str | None


@dataclass(frozen=True)
class Marks:
    """The marks of all files, and the lines that are none."""

    marks: list[Mark]
    faults: list[str]
    """One sentence per line."""


@dataclass(frozen=True)
class MarkAgreement:
    """People against the rule and the score."""

    decisions: Interval | None
    """Share of the samples that people decided, on which the rule decided the same."""
    kappa: Interval | None
    """Cohen's kappa of the same decisions; None if it is not defined."""
    rank_correlation: float | None
    """Spearman's, of mean mark and score; None below three samples or if one of the two is constant."""
    marked: int
    """Samples with a mark of any kind."""
    undecided: int
    """Samples that as many raters keep as drop."""
    unknown: int
    """Marked samples that are not on the page."""
    against: list[str]
    """Keys of samples that people decide otherwise than the rule, sorted."""


def read_marks(paths: Sequence[Path]) -> Marks:
    """Marks in files downloaded from the page, ``.csv`` or ``.jsonl``. A rater without a name gets the file's name.

    Raises:
        DataError: a file cannot be read or lacks a column.
    """
    marks: dict[tuple[str, str], Mark] = {}
    faults = []
    for path in paths:
        for number, row in _rows(path):
            found = _mark(row, path.stem)
            if isinstance(found, str):
                faults.append(f"{path.name}, line {number}: {found}")
            elif (found.key, found.rater) in marks:
                faults.append(f"{path.name}, line {number}: {found.rater} has marked {found.key[:40]!r} before")
            else:
                marks[found.key, found.rater] = found
    return Marks(list(marks.values()), faults)


def agreement(samples: Mapping[str, Mapping[str, Any]], marks: Sequence[Mark], seed: int) -> MarkAgreement:
    """Compares marks with rows of `build.EXPLORED` by key; a quarantined sample counts as dropped."""
    known = [mark for mark in marks if mark.key in samples]
    decided = {key: keep for key, keep in _decisions(known).items() if keep is not None}
    keys = sorted(decided)
    people = ["keep" if decided[key] else "drop" for key in keys]
    rule = ["keep" if samples[key]["state"] == "kept" else "drop" for key in keys]
    rated = {key: mean for key, mean in _mean_marks(known).items() if samples[key]["score"] is not None}
    return MarkAgreement(
        decisions=wilson(sum(map(str.__eq__, people, rule)), len(keys)) if keys else None,
        kappa=cohen_kappa(people, rule, RESAMPLES, seed) if keys else None,
        rank_correlation=_spearman(list(rated.values()), [samples[key]["score"] for key in rated]),
        marked=len({mark.key for mark in known}),
        undecided=sum(keep is None for keep in _decisions(known).values()),
        unknown=len({mark.key for mark in marks} - set(samples)),
        against=[key for key, one, other in zip(keys, people, rule, strict=True) if one != other],
    )


def preference_pairs(samples: Mapping[str, Mapping[str, Any]], marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """Rows of PREFERENCE_PAIR: two marked texts of one image and question, of which people prefer one.

    The mean mark decides where both texts have one and they differ, otherwise keep against drop. Samples without an
    image or text give no pair.
    """
    known = [mark for mark in marks if mark.key in samples]
    means, decisions = _mean_marks(known), _decisions(known)
    asked: dict[tuple[str, str], list[str]] = {}
    for key in sorted({mark.key for mark in known}):
        row = samples[key]
        image = row["image_id"] or row["image"]
        if image is not None and row["image"] is not None and row["messages"]:
            asked.setdefault((image, canonical_messages(row["messages"][:-1])), []).append(key)
    pairs = []
    for keys in asked.values():
        for one, other in combinations(keys, 2):
            better = _better(means, one, other) or _better(decisions, one, other)
            if better is not None:
                pairs.append(_pair(samples[better], samples[other if better == one else one], means))
    return pairs


def _pair(chosen: Mapping[str, Any], rejected: Mapping[str, Any], means: Mapping[str, float]) -> dict[str, Any]:
    context = chosen["messages"][:-1]
    texts = chosen["messages"][-1]["content"], rejected["messages"][-1]["content"]
    return {
        "pair_id": pair_id(chosen["image_id"], context, *texts),
        "image_id": chosen["image_id"],
        "image": chosen["image"],
        "family": "open_ended" if context else "caption",
        "context": context,
        "chosen": texts[0],
        "rejected": texts[1],
        "chosen_mark": means.get(chosen["key"]),
        "rejected_mark": means.get(rejected["key"]),
        "judge": "people",
        "split": "train",
    }


def _better(values: Mapping[str, float | bool | None], one: str, other: str) -> str | None:
    """The key with the higher value; None if a value is missing or both are equal."""
    first, second = values.get(one), values.get(other)
    if first is None or second is None or first == second:
        return None
    return one if first > second else other


def _decisions(marks: Sequence[Mark]) -> dict[str, bool | None]:
    """Whether most raters keep a sample; None if they are split."""
    votes: dict[str, int] = {}
    for mark in marks:
        if mark.decision is not None:
            votes[mark.key] = votes.get(mark.key, 0) + (1 if mark.decision == "keep" else -1)
    return {key: None if vote == 0 else vote > 0 for key, vote in votes.items()}


def _mean_marks(marks: Sequence[Mark]) -> dict[str, float]:
    given: dict[str, list[int]] = {}
    for mark in marks:
        if mark.mark is not None:
            given.setdefault(mark.key, []).append(mark.mark)
    return {key: fmean(values) for key, values in given.items()}


def _spearman(marks: Sequence[float], scores: Sequence[float]) -> float | None:
    if len(marks) < 3 or len(set(marks)) == 1 or len(set(scores)) == 1:
        return None
    return float(spearmanr(marks, scores).statistic)


def _mark(row: Mapping[str, Any], file: str) -> Mark | str:
    """The mark of one line, or what is wrong with it."""
    text = {name: str(row[name]).strip() if row.get(name) is not None else "" for name in (*_NEEDED, "note", "rater")}
    key = str(row.get("key") or "")
    if not key:
        return "no key"
    if text["decision"] not in ("", *DECISIONS):
        return f"decision is {text['decision'][:40]!r}, needs keep or drop"
    if text["mark"] not in ("", "1", "2", "3", "4", "5"):
        return f"mark is {text['mark'][:40]!r}, needs 1 to 5"
    if not (text["decision"] or text["mark"] or text["note"]):
        return "neither decision nor mark nor note"
    mark = int(text["mark"]) if text["mark"] else None
    return Mark(key, text["rater"] or file, text["decision"] or None, mark, text["note"] or None)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The lines of a file, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; download the marks from the page again") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = _NEEDED - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}; is it from the explorer's page?")
        for row in reader:
            yield reader.line_num, {name: _without_escape(cell) for name, cell in row.items() if isinstance(cell, str)}
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(line)


def _without_escape(cell: str) -> str:
    return cell[1:] if _ESCAPED.match(cell) else cell


def _object(line: str) -> Mapping[str, Any]:
    """The object of a JSON line; empty, which is not a mark, if it is not an object."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
