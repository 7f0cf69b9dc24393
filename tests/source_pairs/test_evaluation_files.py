"""Published evaluation files, one of each shape made by hand: the items they give, and what is quarantined."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Boxes, SourceFile
from rsqa_pipeline.profile.source_pairs import EvaluationFormat
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import benchmark_sets
from rsqa_pipeline.source_pairs.evaluation.lhrs_bench import choice_lines
from rsqa_pipeline.source_pairs.evaluation.read_evaluation import READERS
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_karpathy


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    """Noise of (width, height), different for every name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int.from_bytes(path.name.encode()))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def items_of(folder: Path, form: str, path: Path, **options: Any) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The items that are not made from the images alone, and the counts of quarantined rows by reason."""
    write_karpathy(folder / "trained", {"train": 2, "val": 1, "test": 1})
    source = SourceFile(format=form, path=str(path), **options)  # type: ignore[arg-type]
    out = folder / "out"
    profile = settings(folder / "trained", benchmarks=source)
    metrics = benchmark_sets.run({}, out, profile, SilentLogger())
    assert metrics["input_rows"] == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert validate("benchmark_item", out / "items.parquet").success
    items = [
        item
        for item in read_table(out / "items.parquet")
        if item["task"] == "reward_pair" or not item["task"].startswith("reward_")
    ]
    return items, Counter(row["reason"] for row in read_table(out / "quarantine.parquet"))


def test_lhrs_bench(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0.png")
    ask = {"question": "What is the main land use?", "choices": "A. Factory; B. Park; C. Farm; D. Forest."}
    pairs = [
        {**ask, "answer": "C.", "type": ["1"]},
        {**ask, "question": "And here?", "answer": "E.", "type": ["1"]},
        {"question": "Which?", "choices": "A. Park; B. park.", "answer": "A.", "type": ["2"]},
        {"question": "Is it U.S. land?", "choices": "A. Yes, near the U.S. border; B. No.", "answer": "B.", "type": []},
        {"question": "No choices?", "answer": "A."},
        {"choices": "A. Yes; B. No.", "answer": "A."},
    ]
    rows = [{"filename": "0.png", "qa_pairs": pairs}, {"filename": "gone.png", "qa_pairs": pairs[:1]}]
    rows += [
        {"qa_pairs": pairs[:1]},
        {"filename": "0.png", "qa_pairs": []},
        {"filename": "0.png", "qa_pairs": pairs[:1]},
    ]
    path = write(tmp_path / "LHRS-Bench.json", {"qtype": {"1 identity": 1}, "data": rows})
    items, faults = items_of(tmp_path, "lhrs_bench", path, images=str(tmp_path / "images"))
    assert [(item["question"], item["answer"], item["choices"]) for item in items] == [
        ("What is the main land use?", "C", ["Factory", "Park", "Farm", "Forest"]),
        ("Is it U.S. land?", "B", ["Yes, near the U.S. border", "No"]),
    ]
    assert faults == {"no_item": 3, "not_text": 1, "missing_image": 1, "no_image": 1, "bad_turns": 1, "duplicate_id": 1}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("A. Factory; B. Park.", ["A. Factory", "B. Park"]),
        ("A. 10 m; B. 2.5 m", ["A. 10 m", "B. 2.5 m"]),
        ("A. one\nB. two", ["A. one", "B. two"]),
        ("", []),
    ],
)
def test_choices_in_one_text(text: str, lines: list[str]) -> None:
    assert choice_lines(text) == lines


def rsvqa(folder: Path) -> Path:
    picture(folder / "images" / "1.tif")
    picture(folder / "images" / "2.tif")
    asked = [
        (10, 1, "presence", "Is there a road?", "yes"),
        (11, 1, "count", "How many buildings are there?", "3"),
        (12, 2, "rural_urban", "Is it a rural or an urban area", "urban"),
        (13, 2, "comp", "Are there more roads than lakes?", "no"),
        (14, 2, "area", "What is the area of the water?", "0m2"),
    ]
    questions: list[dict[str, Any]] = [{"id": 9, "active": False}]
    questions += [
        {"id": n, "img_id": image, "type": kind, "question": text, "answers_ids": [n], "active": True}
        for n, image, kind, text, _ in asked
    ]
    questions += [{**questions[1], "id": 15, "img_id": 7}, {**questions[1], "id": 16, "answers_ids": [99]}]
    questions += [{**questions[1], "id": 17, "type": "colour"}, {**questions[1]}]
    answers = [{"id": n, "question_id": n, "answer": answer, "active": True} for n, *_, answer in asked]
    images = [{"id": 0, "active": False}, *({"id": n, "questions_ids": [10], "active": True} for n in (1, 2))]
    write(folder / "LR_split_test_answers.json", {"answers": answers})
    write(folder / "LR_split_test_images.json", {"images": images})
    return write(folder / "LR_split_test_questions.json", {"questions": questions})


def test_rsvqa(tmp_path: Path) -> None:
    items, faults = items_of(tmp_path, "rsvqa", rsvqa(tmp_path), images=str(tmp_path / "images"))
    assert {item["task"]: item["answer"] for item in items} == {
        "presence": "yes",
        "count": "3",
        "rural_urban": "urban",
        "comparison": "no",
        "short_answer": "0m2",
    }
    assert faults == {"unknown_image": 1, "no_item": 1, "unknown_task": 1, "duplicate_id": 1}


def test_an_id_of_two_answers_answers_no_question(tmp_path: Path) -> None:
    questions = rsvqa(tmp_path)
    path = tmp_path / "LR_split_test_answers.json"
    answers = json.loads(path.read_text())["answers"]
    write(path, {"answers": [*answers, {"id": 10, "answer": "no", "active": True}]})
    items, faults = items_of(tmp_path, "rsvqa", questions, images=str(tmp_path / "images"))
    assert "presence" not in {item["task"] for item in items}
    assert (faults["no_item"], faults["duplicate_id"]) == (3, 1), "two rows ask the question of that answer"


def test_a_change_of_any_of_rsvqas_files_makes_the_items_stale(tmp_path: Path) -> None:
    names = [Path(path).name for path in SourceFile(format="rsvqa", path=str(rsvqa(tmp_path))).paths]
    assert names == ["LR_split_test_questions.json", "LR_split_test_answers.json", "LR_split_test_images.json"]


def test_rsvqa_needs_all_three_files(tmp_path: Path) -> None:
    path = rsvqa(tmp_path)
    (tmp_path / "LR_split_test_answers.json").unlink()
    with pytest.raises(DataError, match=r"LR_split_test_answers.json cannot be read"):
        items_of(tmp_path, "rsvqa", path)
    with pytest.raises(DataError, match="is not RSVQA's file of questions"):
        items_of(tmp_path, "rsvqa", tmp_path / "LR_split_test_images.json")


def dior(folder: Path) -> Path:
    def described(text: str, *sides: int) -> str:
        box = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=False))
        return f"<object><name>dam</name><bndbox>{box}</bndbox><description>{text}</description></object>"

    objects = {
        "00001": [described("the dam at the left", 1, 2, 15, 16), described("of the training set", 1, 2, 15, 16)],
        "00002": [described("outside", 1, 2, 900, 16), described("no ymax", 1, 2, 3), described("no area", 5, 5, 5, 5)],
    }
    for name, found in objects.items():
        picture(folder / "JPEGImages" / f"{name}.jpg")
        text = f"<annotation><filename>{name}.jpg</filename>{''.join(found)}</annotation>"
        write(folder / "Annotations" / f"{name}.xml", text)
    write(folder / "test.txt", "0\n2\n3\n4\n9\n")
    return folder


def test_dior_rsvg(tmp_path: Path) -> None:
    items, faults = items_of(tmp_path, "dior_rsvg", dior(tmp_path / "DIOR_RSVG"))
    assert [(item["task"], item["question"], item["boxes"]) for item in items] == [
        ("grounding", "the dam at the left", [[1.0, 2.0, 15.0, 16.0]])
    ]
    assert faults == {"bad_box": 3, "unknown_image": 1}


def test_dior_rsvg_in_parts_of_100_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"boxes of dior_rsvg are in pixels, corners; the settings declare 0..100"):
        items_of(tmp_path, "dior_rsvg", dior(tmp_path / "DIOR_RSVG"), boxes=Boxes(unit="0..100"))


@pytest.mark.parametrize("bomb", [False, True])
def test_a_damaged_annotation_of_dior_rsvg_is_an_error(tmp_path: Path, bomb: bool) -> None:
    entity = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation><filename>&b;</filename></annotation>'
    write(dior(tmp_path / "D") / "Annotations" / "00003.xml", entity if bomb else "<annotation>")
    with pytest.raises(DataError, match=r"00003.xml cannot be parsed .* none can be left out"):
        items_of(tmp_path, "dior_rsvg", tmp_path / "D")


def test_dior_rsvg_as_conversations(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    turns = [{"from": "human", "value": "<image>\nwhere is the dam?"}, {"from": "gpt", "value": "[1, 2, 15, 16]"}]
    path = write(tmp_path / "VG_DOIR_RSVG_test.json", [{"id": 1, "image": "a.jpg", "conversations": turns}])
    items, faults = items_of(tmp_path, "llava", path, boxes=Boxes(unit="pixels"))
    assert [(item["task"], item["boxes"]) for item in items] == [("grounding", [[1.0, 2.0, 15.0, 16.0]])]
    assert not faults


def vrsbench(folder: Path, rows: list[dict[str, Any]]) -> Path:
    picture(folder / "P1.png")
    rows = [{"image_id": "P1.png", "question_id": n, "question": f"question {n}", **row} for n, row in enumerate(rows)]
    return write(folder / "VRSBench_EVAL.json", rows)


def test_vrsbench_captions(tmp_path: Path) -> None:
    path = vrsbench(tmp_path, [{"ground_truth": "a port with ships"}, {"ground_truth": None}, {"image_id": None}])
    items, faults = items_of(tmp_path, "vrsbench_captions", path)
    assert [(item["task"], item["captions"]) for item in items] == [("retrieval", ["a port with ships"])]
    assert faults == {"not_text": 1, "no_image": 1}


def test_vrsbench_questions(tmp_path: Path) -> None:
    rows = [
        {"type": "object existence", "ground_truth": "Yes"},
        {"type": "object quantity", "ground_truth": "1"},
        {"type": "object quantity", "ground_truth": "Multiple"},
        {"type": "rural or urban", "ground_truth": "Rural"},
        {"type": "object position", "ground_truth": "bottom-left"},
        {"type": "object position", "ground_truth": "top", "question_id": 4},
    ]
    items, faults = items_of(tmp_path, "vrsbench_questions", vrsbench(tmp_path, rows))
    assert sorted((item["task"], item["answer"]) for item in items) == [
        ("count", "1"),
        ("presence", "Yes"),
        ("rural_urban", "Rural"),
        ("short_answer", "Multiple"),
        ("short_answer", "bottom-left"),
    ]
    assert faults == {"duplicate_id": 1}


def test_vrsbench_boxes_are_parts_of_100(tmp_path: Path) -> None:
    truths = ["{<25><30><50><60>}", "{<25><30><50><160>}", "no box", "{<1><2>}"]
    items, faults = items_of(tmp_path, "vrsbench_boxes", vrsbench(tmp_path, [{"ground_truth": t} for t in truths]))
    assert [(item["task"], item["boxes"]) for item in items] == [("grounding", [[10.0, 6.0, 20.0, 12.0]])]
    assert faults == {"bad_box": 2, "no_item": 1}


def test_vl_rewardbench(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    row = {"id": "1", "image_path": "images/a.jpg", "query": "what team?", "response": ["chunikin", "hawks"]}
    rows = [
        {**row, "human_ranking": [1, 0]},
        {**row, "id": "2", "response": ["hawks", "bears"], "human_ranking": [0, 1]},
        {**row, "id": "3", "human_ranking": [0, 0]},
        {**row, "id": "4", "response": ["hawks", "Hawks"], "human_ranking": [0, 1]},
        {**row, "id": "1", "human_ranking": [0, 1]},
        {**row, "id": "6", "response": ["hawks", ""], "human_ranking": [0, 1]},
        {**row, "id": "7", "image_path": None, "human_ranking": [0, 1]},
    ]
    path = write(tmp_path / "data.jsonl", "\n".join(map(json.dumps, rows)) + "\nnot json\n[]\n")
    items, faults = items_of(tmp_path, "vl_rewardbench", path)
    assert [(item["task"], item["question"], item["answer"], item["choices"]) for item in items] == [
        ("reward_pair", "what team?", "hawks", ["hawks", "chunikin"]),
        ("reward_pair", "what team?", "hawks", ["hawks", "bears"]),
    ]
    assert faults == {"bad_row": 3, "no_item": 1, "duplicate_id": 1, "not_text": 1, "no_image": 1}


def test_multimodal_rewardbench(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    row = {"ID": "1", "Text": "how many cars?", "Image": "images/a.jpg", "Output1": "two", "Output2": "five"}
    rows: list[Any] = [{**row, "Better": "Output2"}, {**row, "ID": "2", "Better": "tie"}, "text"]
    items, faults = items_of(tmp_path, "multimodal_rewardbench", write(tmp_path / "all_data.json", rows))
    assert [(item["task"], item["answer"], item["choices"]) for item in items] == [
        ("reward_pair", "five", ["five", "two"])
    ]
    assert faults == {"bad_row": 2}


def test_fmow(tmp_path: Path) -> None:
    for name in ("airport/airport_0/airport_0_0", "airport/airport_0/airport_0_1", "race_track/race_track_3/r_3_0"):
        picture(tmp_path / "val" / f"{name}_rgb.jpg")
        picture(tmp_path / "val" / f"{name}_msrgb.jpg")
    picture(tmp_path / "val" / "stray_rgb.jpg")
    items, faults = items_of(tmp_path, "fmow", tmp_path / "val")
    classes = [item["answer"] for item in items if item["task"] == "classification"]
    assert sorted(classes) == ["airport", "airport", "race track"]
    assert faults == {"no_class": 1}


@pytest.mark.parametrize(
    ("form", "folders", "classes"),
    [
        ("AID", ("Airport", "BareLand"), {"airport", "bare land"}),
        ("NWPU-RESISC45", ("airplane", "baseball_diamond"), {"airplane", "baseball diamond"}),
        ("EuroSAT", ("AnnualCrop", "SeaLake"), {"annual crop", "sea lake"}),
        ("SIRI-WHU", ("agriculture", "idle_land"), {"agriculture", "idle land"}),
        ("WHU-RS19", ("Airport", "footballField"), {"airport", "football field"}),
    ],
)
def test_class_folders(tmp_path: Path, form: str, folders: tuple[str, ...], classes: set[str]) -> None:
    for folder in folders:
        picture(tmp_path / form / folder / f"{folder}_1.jpg")
    items, _ = items_of(tmp_path, "image_folder", tmp_path / form)
    assert {item["answer"] for item in items if item["task"] == "classification"} == classes


def test_rsitmd_is_karpathy_json(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "airport_1.tif")
    sentences = [{"tokens": ["a", "plane"], "raw": "a plane", "imgid": 0, "sentid": 0}]
    row = {"filename": "airport_1.tif", "split": "test", "imgid": 0, "sentids": [0], "sentences": sentences}
    path = write(tmp_path / "dataset_RSITMD.json", {"images": [row], "dataset": "RSITMD"})
    items, _ = items_of(tmp_path, "karpathy", path, images=str(tmp_path / "images"))
    assert [item["captions"] for item in items if item["task"] == "retrieval"] == [["a plane"]]


@pytest.mark.parametrize("place", ["captions", "instructions"])
def test_evaluation_files_are_never_trained_on(tmp_path: Path, place: str) -> None:
    with pytest.raises(ValidationError, match=r"rsvqa is only for source_pairs.benchmarks"):
        settings(tmp_path, **{place: SourceFile(format="rsvqa", path="a_questions.json")})


def test_settings_that_would_change_a_published_file_are_refused() -> None:
    with pytest.raises(ValidationError, match="fmow is read as published; leave out limit"):
        SourceFile(format="fmow", path="val", limit=3)


def test_images_outside_the_folder_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    picture(tmp_path / "data" / "P1.png")
    rows = [
        {"image_id": name, "question_id": 1, "question": "q", "type": "reasoning", "ground_truth": "a"}
        for name in ("P1.png", "../secret.png")
    ]
    items, faults = items_of(tmp_path, "vrsbench_questions", write(tmp_path / "data" / "v.json", rows))
    assert (len(items), faults) == (1, {"outside_root": 1})


def test_every_format_of_evaluation_files_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert set(READERS) == set(get_args(EvaluationFormat))
    assert not [form for form in READERS if f"`format: {form}`" not in text]
