"""Human labels: export of pairs as a sheet for raters, import of their choices, and agreement with the judge.

A label belongs to two texts of an image and question. It does not depend on the judge's choice, so it stays valid for
another judge. A hash decides which text is shown as A, so neither the sheet nor its order reveals the judge's choice.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.records import Metrics, canonical_messages, sha256
from rsqa_pipeline.source_pairs.split import unit_hash
from rsqa_pipeline.statistics import Interval, cohen_kappa, wilson

COLUMNS = ("label_key", "image", "question", "a", "b", "better", "rater")
CHOICES = ("A", "B", "equal")
RESAMPLES = 1000
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")

Pair = Mapping[str, Any]
"""A row of PREFERENCE_PAIR."""


@dataclass(frozen=True)
class Label:
    """A rater's choice. Example: ``Label("9f..", "ana", "A")``."""

    key: str
    rater: str
    better: str
    """``A``, ``B`` or ``equal``."""


@dataclass(frozen=True)
class Labels:
    """Choices of all raters, and the lines without a valid choice."""

    labels: list[Label]
    empty: int
    """Lines not filled in."""
    faults: list[str]
    """Lines with an invalid choice, one sentence per line."""


@dataclass(frozen=True)
class Agreement:
    """Agreement between the judge and people."""

    accuracy: Interval | None
    """Share of labelled pairs on which the judge agrees with the majority of raters."""
    kappa: Interval | None
    """Cohen's kappa of the same choices; None if it is not defined (all chose the same letter)."""
    between_raters: float | None
    """Mean of Cohen's kappa over pairs of raters with pairs in common; None with one rater."""
    undecided: int
    """Labelled pairs that raters call equal, or on which they are split."""
    unknown: int
    """Labelled pairs that are not among the pairs given."""

    def metrics(self) -> Metrics:
        """Flat numbers; undefined values are left out."""
        found: Metrics = {"labels/undecided": float(self.undecided), "labels/of_other_pairs": float(self.unknown)}
        for name, interval in (("human_agreement", self.accuracy), ("human_kappa", self.kappa)):
            if interval is not None:
                found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
                found[f"{name}_pairs"] = float(interval.n)
        if self.between_raters is not None:
            found["kappa_between_raters"] = self.between_raters
        return found


def label_key(pair: Pair) -> str:
    """Id of two competing texts, in either order."""
    texts = sorted((pair["chosen"], pair["rejected"]))
    return sha256(pair["image_id"] or "", canonical_messages(pair["context"]), *texts)


def letter_of_chosen(pair: Pair) -> str:
    """The letter under which the judge's choice is shown."""
    first, second = sorted((pair["chosen"], pair["rejected"]))
    a = first if unit_hash("label", label_key(pair)) < 0.5 else second
    return "A" if a == pair["chosen"] else "B"


def export_labels(pairs: Sequence[Pair], out: Path, number: int, seed: int) -> int:
    """Writes ``labels.csv`` for raters, and its images next to it; returns the number of pairs.

    Raters fill in ``better`` with A, B or equal, and ``rater`` with a name. A pair whose image cannot be opened is left
    out.

    Raises:
        DataError: the file already exists and may be filled in.
    """
    sheet = out / "labels.csv"
    if sheet.exists():
        raise DataError(f"{sheet} already exists and may be filled in; choose another folder")
    (out / "images").mkdir(parents=True, exist_ok=True)
    drawn = sorted(pairs, key=lambda pair: unit_hash(str(seed), "label sheet", label_key(pair)))
    rows: list[list[str]] = []
    for pair in drawn:
        if len(rows) == number:
            break
        image = _saved_image(pair, out)
        if image is None:
            continue
        a, b = (pair["chosen"], pair["rejected"])[:: 1 if letter_of_chosen(pair) == "A" else -1]
        question = "\n".join(turn["content"] for turn in pair["context"])
        rows.append([label_key(pair), image, *(_escape_formula(text) for text in (question, a, b)), "", ""])
    with sheet.open("w", newline="", encoding="utf-8-sig") as file:  # spreadsheets need the BOM to detect UTF-8
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return len(rows)


def read_labels(paths: Sequence[Path]) -> Labels:
    """Choices in the sheets that raters filled in. A rater without a name gets the file's name.

    Raises:
        DataError: a file cannot be read, or lacks the columns label_key and better.
    """
    labels, empty, faults = [], 0, []
    for path in paths:
        for number, row in enumerate(_rows(path), 2):
            better = (row["better"] or "").strip()
            choice = next((c for c in CHOICES if c.lower() == better.lower()), None)
            if not better:
                empty += 1
            elif choice is None or not row["label_key"]:
                faults.append(f"{path.name}, row {number}: better is {better[:40]!r}, needs A, B or equal")
            else:
                labels.append(Label(row["label_key"], (row.get("rater") or "").strip() or path.stem, choice))
    return Labels(labels, empty, faults)


def agreement(pairs: Sequence[Pair], labels: Sequence[Label], seed: int) -> Agreement:
    """The judge's choices against the majority of raters.

    Args:
        seed: seed of the bootstrap for kappa's interval.
    """
    judged = {label_key(pair): letter_of_chosen(pair) for pair in pairs}
    by_pair: dict[str, dict[str, str]] = {}
    for label in labels:
        by_pair.setdefault(label.key, {})[label.rater] = label.better
    known = {key: choices for key, choices in by_pair.items() if key in judged}
    decided = {key: best for key, choices in known.items() if (best := _majority(choices)) is not None}
    keys = sorted(decided)
    same = sum(decided[key] == judged[key] for key in keys)
    return Agreement(
        accuracy=wilson(same, len(keys)) if keys else None,
        kappa=cohen_kappa([decided[k] for k in keys], [judged[k] for k in keys], RESAMPLES, seed) if keys else None,
        between_raters=_between_raters(by_pair, seed),
        undecided=len(known) - len(decided),
        unknown=len(by_pair) - len(known),
    )


def _majority(choices: Mapping[str, str]) -> str | None:
    """A or B if more raters chose it than the other letter and than equal; None otherwise."""
    counts = Counter(choices.values())
    if counts["A"] == counts["B"] or counts["equal"] >= max(counts["A"], counts["B"]):
        return None
    return "A" if counts["A"] > counts["B"] else "B"


def _between_raters(by_pair: Mapping[str, Mapping[str, str]], seed: int) -> float | None:
    kappas = []
    for one, other in combinations(sorted({rater for choices in by_pair.values() for rater in choices}), 2):
        shared = [(c[one], c[other]) for c in by_pair.values() if one in c and other in c]
        kappa = cohen_kappa([a for a, _ in shared], [b for _, b in shared], 1, seed) if shared else None
        if kappa is not None:
            kappas.append(kappa.value)
    return sum(kappas) / len(kappas) if kappas else None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; save it as CSV in UTF-8") from error
    missing = {"label_key", "better"} - set(reader.fieldnames or ())
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(sorted(missing))}; found {reader.fieldnames}. Is it the sheet that "
            "`rsqa labels export` wrote, saved with commas?"
        )
    return rows


def _saved_image(pair: Pair, out: Path) -> str | None:
    """Saves the pair's image below ``out``. Returns its name: empty if the pair has no image, None if it cannot be
    opened."""
    if pair["image"] is None:
        return ""
    name = f"images/{pair['image_id'][:16]}.png"
    if not (out / name).exists():
        try:
            open_image(pair["image"]).save(out / name)
        except ImageFault:
            return None
    return name


def _escape_formula(text: str) -> str:
    """The text in a form that a spreadsheet does not read as a formula, also where it trims or normalizes a cell."""
    return f" {text}" if text.startswith(_FORMULA_STARTS) else text
