"""Labels: the sheet hides the judge's choice and is read back, and kappa equals scikit-learn's."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data.labels import agreement, export_labels, letter_of_chosen, read_labels
from rsqa_pipeline.records import PREFERENCE_PAIR, write_table
from rsqa_pipeline.statistics import cohen_kappa

PAIRS = [
    {"image_id": None, "image": None, "context": [], "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(60)
]


FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"
"""With one of these a cell is, or can be made by a spreadsheet that trims or normalizes it, a formula."""
FORMULA_MARKS = FORMULA_STARTS + " ab1|',;\"("


def filled(folder, choose, rater="ana"):
    """The sheet with ``better`` filled in by ``choose(row)``."""
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8-sig")))
    path = folder / f"{rater}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "better": choose(row), "rater": rater} for row in rows)
    return path


def good(row):
    return "A" if row["a"].startswith("good") else "B"


def test_raters_who_choose_like_the_judge_agree_fully_and_the_letter_reveals_nothing(tmp_path):
    assert export_labels(PAIRS, tmp_path, 60, seed=1) == 60
    found = read_labels([filled(tmp_path, good)])
    measured = agreement(PAIRS, found.labels, seed=1)
    assert measured.accuracy.value == measured.kappa.value == 1.0 and measured.accuracy.n == 60
    assert 15 < sum(letter_of_chosen(pair) == "A" for pair in PAIRS) < 45


def test_labels_stay_valid_for_a_judge_that_chose_the_other_text(tmp_path):
    export_labels(PAIRS, tmp_path, 60, seed=1)
    found = read_labels([filled(tmp_path, good)])
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    assert agreement(turned, found.labels, seed=1).accuracy.value == 0.0


def test_invalid_choices_are_counted(tmp_path):
    export_labels(PAIRS, tmp_path, 4, seed=1)
    choices = iter(["", "perhaps", "equal", "b"])
    found = read_labels([filled(tmp_path, lambda row: next(choices))])
    assert (found.empty, len(found.faults), [label.better for label in found.labels]) == (1, 1, ["equal", "B"])
    assert agreement(PAIRS, found.labels, seed=1).undecided == 1


def test_a_sheet_that_may_be_filled_in_is_not_overwritten(tmp_path):
    export_labels(PAIRS, tmp_path, 4, seed=1)
    with pytest.raises(DataError, match="may be filled in"):
        export_labels(PAIRS, tmp_path, 4, seed=1)


def test_kappa_equals_a_hand_calculation_and_scikit_learn():
    # 4 of 6 agree; both say A half the time: chance 1/2, kappa (2/3 - 1/2) / (1/2) = 1/3.
    assert cohen_kappa(list("AAABBB"), list("AABABB"), 100, 0).value == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)
    a, b = (list(rng.choice(list("ABC"), 80)) for _ in range(2))
    found = cohen_kappa(a, b, 200, 0)
    assert found.value == pytest.approx(cohen_kappa_score(a, b)) and found.low < found.value < found.high
    assert cohen_kappa(["A", "A"], ["A", "A"], 10, 0) is None


def test_commands_in_the_docs_run(tmp_path, monkeypatch, project_root):
    docs = (project_root / "docs/preferences.md").read_text(encoding="utf-8")
    commands = [line.split()[1:] for line in docs.splitlines() if line.startswith("rsqa ")]
    profile = str(project_root / "configs/profiles/demo.yaml")
    (tmp_path / "data/demo").mkdir(parents=True)
    (tmp_path / "data/demo/corpus").symlink_to(project_root / "data/demo/corpus")
    monkeypatch.chdir(tmp_path)
    rows = [
        {**pair, "pair_id": str(n), "family": "caption", "chosen_mark": 4.0, "rejected_mark": 2.0, "split": "train"}
        for n, pair in enumerate(PAIRS)
    ]
    write_table(Path("data/demo/preference_data/caption_preferences/pairs.parquet"), PREFERENCE_PAIR, rows)
    assert len(commands) == 3
    for arguments in commands:
        done = CliRunner().invoke(app, [*arguments, "--profile", profile])
        assert done.exit_code == 0, done.output


@settings(deadline=None)
@given(texts=st.lists(st.text(FORMULA_MARKS, min_size=1, max_size=12), min_size=2, max_size=2, unique=True))
@example(texts=["=HYPERLINK(0)", "\t=1+1"])
@example(texts=["＝1+1", "\r\n@SUM(A1)"])
def test_no_cell_of_a_sheet_is_a_formula_and_no_text_is_lost(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("sheet")
    question = {"role": "user", "content": texts[0]}
    pair = {"image_id": None, "image": None, "context": [question], "chosen": texts[0], "rejected": texts[1]}
    assert export_labels([pair], folder, 1, seed=1) == 1
    row = next(csv.DictReader((folder / "labels.csv").open(encoding="utf-8-sig", newline="")))
    assert not any(cell.startswith(tuple(FORMULA_STARTS)) for cell in row.values())
    shown = [text.removeprefix(" ") for text in (row["question"], row["a"], row["b"])]
    assert shown[0] == texts[0].removeprefix(" ")
    assert sorted(shown[1:]) == sorted(text.removeprefix(" ") for text in texts)
