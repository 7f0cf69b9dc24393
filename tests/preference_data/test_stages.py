"""The preference stages on a small scene corpus and on real images: what is compared, counted and held out."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data import caption_preferences, instruction_preferences, text_preferences
from rsqa_pipeline.preference_data.answers import is_right
from rsqa_pipeline.records import read_table
from rsqa_pipeline.scenes.asking import ask
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs import image_text_pairs, instruction_samples
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION
from rsqa_pipeline.tracking.run_logger import SilentLogger

STAGES = {"caption": caption_preferences, "instruction": instruction_preferences, "text": text_preferences}


@pytest.fixture(scope="module")
def made(tmp_path_factory, inputs, settings):
    """Each stage's output folder and metrics."""
    outputs = {}
    for name, stage in STAGES.items():
        out = tmp_path_factory.mktemp("preference_data") / f"{name}_preferences"
        out.mkdir()
        outputs[name] = (out, stage.run(inputs, out, settings, SilentLogger()))
    return outputs


@pytest.mark.parametrize("name", STAGES)
def test_kept_and_quarantined_rows_add_up_to_the_input(made, name):
    out, metrics = made[name]
    pairs, faults = read_table(out / "pairs.parquet"), read_table(out / "quarantine.parquet")
    assert len(pairs) == metrics["kept_rows"] > 0
    assert len(faults) == metrics["quarantined_rows"]
    assert metrics["input_rows"] == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert all(fault["reason"] and fault["asset"] == f"{name}_preferences" for fault in faults)


@pytest.mark.parametrize("name", STAGES)
def test_pairs_are_valid_and_no_image_is_in_both_splits(made, name):
    pairs = read_table(made[name][0] / "pairs.parquet")
    assert all(pair["chosen"].strip() and pair["rejected"].strip() for pair in pairs)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    splits: dict[str, set[str]] = {}
    for pair in pairs:
        splits.setdefault(pair["image_id"] or pair["chosen"], set()).add(pair["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "heldout"} == set.union(*splits.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_rerun_gives_the_same_tables(made, inputs, settings, tmp_path, name):
    # A folder next to the first one, since references are relative to it.
    again = made[name][0].parent / "again"
    again.mkdir()
    STAGES[name].run(inputs, again, settings, SilentLogger())
    for table in ("pairs.parquet", "judgements.parquet", "quarantine.parquet"):
        assert read_table(again / table) == read_table(made[name][0] / table)


def test_only_images_set_aside_for_preferences_are_used(made, inputs):
    for name, source in (("caption", "image_text_pairs"), ("instruction", "instruction_samples")):
        preference_images = {
            r["image_id"] for r in read_table(inputs[source] / "samples.parquet") if r["split"] == "preference"
        }
        assert {pair["image_id"] for pair in read_table(made[name][0] / "pairs.parquet")} <= preference_images


def test_captioners_and_vlm_are_judged(made, settings):
    judgements = read_table(made["caption"][0] / "judgements.parquet")
    assert {row["source"] for row in judgements} == set(settings.preference_data.captioners)
    per_image = Counter(row["image_id"] for row in judgements)
    assert set(per_image.values()) == {4}
    assert all(row["relevance"] is None or 1 <= row["relevance"] <= 5 for row in judgements)


def test_one_fault_pairs_are_added_to_training_alone(made, inputs, settings):
    """Held-out pairs stay as they are; the added ones differ in one claim and usually have the right text chosen."""
    config = settings.preference_data.model_copy(update={"one_fault_pairs": {"place": 6, "colour": 8}})
    out = made["caption"][0].parent / "one_fault"
    out.mkdir()
    metrics = caption_preferences.run(
        inputs, out, settings.model_copy(update={"preference_data": config}), SilentLogger()
    )
    before, after = (read_table(folder / "pairs.parquet") for folder in (made["caption"][0], out))
    ids = {pair["pair_id"] for pair in before}
    added = [pair for pair in after if pair["pair_id"] not in ids]
    assert [pair for pair in after if pair["pair_id"] in ids] == before
    assert {pair["split"] for pair in added} == {"train"}
    kinds = Counter(
        next(name for name in (pair["chosen_source"], pair["rejected_source"]) if name.startswith("wrong_"))
        for pair in added
    )
    assert kinds == {"wrong_place": 6, "wrong_colour": 8}
    assert sum(pair["chosen_source"] == "expert" for pair in added) > 10
    assert metrics["input_rows"] == metrics["kept_rows"] + metrics["quarantined_rows"]


def test_judge_usually_prefers_the_truly_better_text(made):
    metrics = made["caption"][1]
    assert 0.8 < metrics["judge_agreement/caption"] <= 1.0


def test_close_ended_pairs_have_the_right_answer_chosen_and_a_wrong_one_rejected(made, inputs):
    truths = read_table(inputs["instruction_samples"] / "truth.parquet")
    scenes = {row["image_id"]: row["scene"] for row in truths}
    pairs = [p for p in read_table(made["instruction"][0] / "pairs.parquet") if p["family"] == "close_ended"]
    for pair in pairs:
        question = ask(sample_scene(scenes[pair["image_id"]]), pair["context"][-1]["content"])
        assert pair["chosen"] == question.answer
        assert not is_right(question.task, pair["rejected"], question.answer)
        assert pair["chosen_mark"] is None and pair["true_margin"] > 0
    assert {"vlm", "other_reference", "hasty"} <= {pair["rejected_source"] for pair in pairs}


def test_yes_and_no_are_rejected_about_as_often_as_they_are_chosen(made):
    """Otherwise the text alone would reveal the right answer."""
    pairs = [
        p for p in read_table(made["instruction"][0] / "pairs.parquet") if {p["chosen"], p["rejected"]} == {"yes", "no"}
    ]
    chosen = Counter(pair["chosen"] for pair in pairs)
    assert len(pairs) > 10 and min(chosen.values()) > 0.2 * len(pairs)


def test_open_ended_answers_compete_with_the_stored_one(made):
    pairs = [p for p in read_table(made["instruction"][0] / "pairs.parquet") if p["family"] == "open_ended"]
    assert pairs and all(pair["chosen_mark"] > pair["rejected_mark"] for pair in pairs)
    assert made["instruction"][1]["judge_agreement/open_ended"] > 0.8


def test_text_pairs_have_no_image_and_cover_every_corruption(made, settings):
    pairs = read_table(made["text"][0] / "pairs.parquet")
    assert {pair["image"] for pair in pairs} == {None} and {pair["family"] for pair in pairs} == {"text"}
    assert {pair["rejected_source"] for pair in pairs} == set(text_preferences.FAULTS)
    assert all(pair["context"] == [] for pair in pairs)


def test_unknown_captioner_is_named_with_the_known_ones(inputs, settings, tmp_path):
    preferences = settings.preference_data.model_copy(update={"captioners": ["expert", "human"]})
    with pytest.raises(DataError, match=r"human cannot caption scenes; known: adder"):
        caption_preferences.run(
            inputs, tmp_path, settings.model_copy(update={"preference_data": preferences}), SilentLogger()
        )


CLASSES = ("airport", "port", "beach", "forest", "park")
CAPTIONS = (
    "many planes are parked near a building in an {} .",
    "several green trees are around a {} .",
    "there are two white cars in the {} .",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory, inputs, settings, project_root):
    """Inputs and settings for photos in RSICD's form: three captions per image, class in the file name."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    images = []
    for index in range(40):
        name = CLASSES[index % len(CLASSES)]
        file = f"{name}_{index}.jpg"
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / file)
        sentences = [{"raw": caption.format(name)} for caption in CAPTIONS]
        images.append({"filename": file, "split": "train", "sentences": sentences})
    (root / "dataset.json").write_text(json.dumps({"images": images}))
    source = {"path": str(root / "dataset.json"), "images": str(root), "scene_class_from_name": True}
    demo = settings.source_pairs
    captions = demo.captions.model_copy(update={"format": "karpathy", **source})
    questions = demo.instructions.model_copy(update={"format": "class_questions", **source})
    pairs = demo.model_copy(update={"captions": captions, "instructions": questions})
    preferences = settings.preference_data.model_copy(
        update={
            "judge": "recorded_corruption",
            "captioners": ["human", "class_swap", "count_change", "vague", "wrong_image"],
        }
    )
    changed = settings.model_copy(update={"source_pairs": pairs, "preference_data": preferences})
    folders = {"base_models": inputs["base_models"]}
    for stage in (image_text_pairs, instruction_samples):
        name = stage.__name__.rsplit(".")[-1]
        folders[name] = root / name
        folders[name].mkdir()
        stage.run({}, folders[name], changed, SilentLogger())
    return folders, changed


def run_stage(stage, real, tmp_path: Path):
    folders, settings = real
    out = tmp_path / "out"
    out.mkdir()
    metrics = stage.run(folders, out, settings, SilentLogger())
    return read_table(out / "pairs.parquet"), metrics


def test_real_captions_compete_with_their_corruptions(real, tmp_path):
    pairs, metrics = run_stage(caption_preferences, real, tmp_path)
    assert metrics["kept_rows"] == len(pairs) > 20
    assert {pair["rejected_source"] for pair in pairs} >= {"class_swap", "count_change", "vague", "wrong_image"}
    by_human = [pair for pair in pairs if "human" in (pair["chosen_source"], pair["rejected_source"])]
    assert all(pair["chosen_source"] == "human" for pair in by_human if pair["true_margin"] > 0)


def test_real_class_questions_have_systematically_wrong_answers(real, tmp_path):
    pairs, _ = run_stage(instruction_preferences, real, tmp_path)
    classes = [p for p in pairs if p["context"][-1]["content"] == CLASS_QUESTION]
    assert {pair["chosen"] for pair in classes} <= set(CLASSES)
    assert {"class_swap", "vague", "vlm"} <= {pair["rejected_source"] for pair in classes}
    swapped = {pair["chosen"]: pair["rejected"] for pair in classes if pair["rejected_source"] == "class_swap"}
    assert swapped["airport"] == "port" and swapped["port"] == "beach"


def test_text_pairs_for_real_images_use_the_built_in_sentences(real, tmp_path):
    pairs, _ = run_stage(text_preferences, real, tmp_path)
    assert len({pair["chosen"] for pair in pairs}) > 30
    assert all(pair["chosen"].endswith(" .") for pair in pairs)
