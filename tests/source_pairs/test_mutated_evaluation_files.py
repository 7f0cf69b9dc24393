"""Damaged evaluation files: every one is read, quarantined or refused; see `tests.mutations`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.evaluation.read_evaluation import READERS, boxes_of, read_evaluation
from tests.mutations import try_mutations
from tests.source_pairs.test_evaluation_files import dior, picture, rsvqa, vrsbench, write

FEW = 15


def lhrs_bench(folder: Path) -> Path:
    picture(folder / "0.png")
    pairs = [{"question": "Which use?", "choices": "A. Factory; B. Park.", "answer": "B.", "type": ["1"]}]
    return write(
        folder / "LHRS-Bench.json", {"qtype": {"1 identity": 1}, "data": [{"filename": "0.png", "qa_pairs": pairs}]}
    )


def vl_rewardbench(folder: Path) -> Path:
    picture(folder / "a.jpg")
    row = {"id": "1", "image_path": "a.jpg", "query": "?", "response": ["one", "two"], "human_ranking": [1, 0]}
    return write(folder / "data.jsonl", "".join(f"{json.dumps({**row, 'id': str(number)})}\n" for number in range(3)))


def multimodal_rewardbench(folder: Path) -> Path:
    picture(folder / "a.jpg")
    row = {"ID": "1", "Text": "?", "Image": "a.jpg", "Output1": "two", "Output2": "five", "Better": "Output2"}
    return write(folder / "all_data.json", [row, {**row, "ID": "2"}])


SOURCES = {
    "lhrs_bench": (lhrs_bench, ["LHRS-Bench.json"]),
    "rsvqa": (rsvqa, [f"LR_split_test_{name}.json" for name in ("questions", "answers", "images")]),
    "dior_rsvg": (dior, ["Annotations/00001.xml", "test.txt"]),
    "vrsbench_captions": (lambda folder: vrsbench(folder, [{"ground_truth": "a port"}] * 3), ["VRSBench_EVAL.json"]),
    "vrsbench_questions": (
        lambda folder: vrsbench(folder, [{"type": "object quantity", "ground_truth": "1"}] * 3),
        ["VRSBench_EVAL.json"],
    ),
    "vrsbench_boxes": (
        lambda folder: vrsbench(folder, [{"ground_truth": "{<25><30><50><60>}"}] * 3),
        ["VRSBench_EVAL.json"],
    ),
    "vl_rewardbench": (vl_rewardbench, ["data.jsonl"]),
    "multimodal_rewardbench": (multimodal_rewardbench, ["all_data.json"]),
}
"""Format -> what writes its files, and the files that are damaged."""
FOLDERS_ALONE = {"fmow"}
"""Formats that are names of folders: nothing but images can be damaged."""
CASES = [(form, name) for form, (_, names) in SOURCES.items() for name in names]


def test_every_format_is_damaged() -> None:
    assert set(SOURCES) | FOLDERS_ALONE == set(READERS)


def ingest(source: SourceFile) -> None:
    quarantine = Quarantine("benchmark_sets")
    entries = list(read_evaluation(source))
    kept = check_rows(iter(entries), ImageIndex(10_000), quarantine, boxes_of(source))
    assert len(kept) + len(quarantine.rows) == len(entries)


@pytest.mark.parametrize(("form", "name"), CASES)
def test_mutated_evaluation_files(form: str, name: str, tmp_path: Path) -> None:
    path = SOURCES[form][0](tmp_path / "data")
    images = {"images": str(tmp_path / "data" / "images")} if form == "rsvqa" else {}
    source = SourceFile(format=form, path=str(path), **images)  # type: ignore[arg-type]
    try_mutations(tmp_path / "data" / name, f"{form} {name}", lambda: ingest(source), FEW)
