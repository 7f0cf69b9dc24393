"""The preference stages with models on a server and on this machine: what is written, refused, bought, resumed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.preference_data import caption_preferences, instruction_preferences
from rsqa_pipeline.preference_data.chat.budget import BudgetError
from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.preference_data.rs_specific import drawn_question, rs_questions
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.preference_data import PreferenceData, TextModel
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, read_table, write_table
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.preference_data.chat_double import Answer, ChatDouble, Seen

NAMES = ("relevance", "specificity", "completeness", "clarity", "richness")


def script(seen: Seen, number: int) -> Answer:
    """Marks by a text's checksum, or writes captions and answers: some are empty, some too long."""
    if "response_format" in seen.body:
        text = seen.prompt.split("<<<\n")[-1].split("\n>>>")[0]
        return Answer(json.dumps(dict.fromkeys(NAMES, 1 + crc32(text.encode()) % 9 / 2)))
    if seen.prompt.startswith("Word the following"):
        return Answer("Put otherwise, what is there?")
    size = len(json.dumps(seen.body))
    return Answer("" if size % 5 == 0 else "x" * 50_000 if size % 7 == 0 else f"text of {seen.body['model']} {size}")


@pytest.fixture
def with_models(settings, tmp_path, monkeypatch):
    """Settings with two writers and a judge on a server, in an empty working directory for the state folder."""
    monkeypatch.chdir(tmp_path)

    def make(url, **more):
        def model(name, **server):
            return {"model": name, "server": {"url": url, "tries": 1, **server}}

        old = settings.preference_data.model_dump()
        changed = {
            "models": {"one": model("m-1"), "two": model("m-2"), "judge": model("m-j", **more)},
            "judge": "judge", "captioners": ["one", "two", "expert"], "caption_images": 12, "instruction_samples": 6,
            "answerers": ["one"], "rs_specific": {"images": 8, "answerers": ["one", "two"], "rephraser": "one"},
        }  # fmt: skip
        return settings.model_copy(update={"preference_data": PreferenceData.model_validate(old | changed)})

    return make


def run(stage, inputs, settings, out):
    out.mkdir()
    return stage.run(inputs, out, settings, SilentLogger())


def test_captions_by_models_are_judged_recorded_and_refused_with_a_reason(inputs, with_models, tmp_path):
    with ChatDouble(script) as double:
        metrics = run(caption_preferences, inputs, with_models(double.url), tmp_path / "out")
    reasons = Counter(row["reason"] for row in read_table(tmp_path / "out/quarantine.parquet"))
    assert reasons["empty_text"] and reasons["text_too_long"]
    written = read_table(tmp_path / "out/generations.parquet")
    assert {row["source"] for row in written} == {"one", "two"}
    assert {(row["model"], row["version"]) for row in written} == {("m-1", "double-2026-01"), ("m-2", "double-2026-01")}
    assert all(len(row["text"]) < 100 and row["prompt"] and row["max_new_tokens"] == 6 for row in written)
    assert {r["judge_version"] for r in read_table(tmp_path / "out/judgements.parquet")} == {"double-2026-01"}
    assert metrics["replies/one"] == 12 and metrics["replies/judge"] > 0


def test_a_budget_ends_the_stage_and_the_next_run_buys_only_the_rest(inputs, with_models, tmp_path):
    with ChatDouble(script) as double:
        with pytest.raises(BudgetError):
            run(caption_preferences, inputs, with_models(double.url, max_calls=5), tmp_path / "first")
        bought = len(double.answered)
        run(caption_preferences, inputs, with_models(double.url), tmp_path / "second")
        total = len(double.answered)
        run(caption_preferences, inputs, with_models(double.url), tmp_path / "third")
        assert bought < total == len(double.answered)
    prompts = [(seen.body["model"], seen.body["seed"], json.dumps(seen.body["messages"])) for seen in double.answered]
    assert len(set(prompts)) == len(prompts)
    pairs = [read_table(tmp_path / name / "pairs.parquet") for name in ("second", "third")]
    assert pairs[0] == pairs[1] and pairs[0]


def test_rs_specific_questions_are_reworded_answered_by_two_and_judged(inputs, with_models, tmp_path):
    with ChatDouble(script) as double:
        run(instruction_preferences, inputs, with_models(double.url), tmp_path / "out")
    pairs = [p for p in read_table(tmp_path / "out/pairs.parquet") if p["family"] == "rs_specific"]
    assert pairs and all(p["context"][0]["content"] == "Put otherwise, what is there?" for p in pairs)
    assert all({p["chosen_source"], p["rejected_source"]} == {"one", "two"} for p in pairs)


def test_twelve_categories_of_five_questions_are_all_drawn():
    questions = [q for five in rs_questions().values() for q in five]
    assert len(rs_questions()) == 12 and {len(five) for five in rs_questions().values()} == {5}
    assert len(set(questions)) == 60
    assert {drawn_question(f"image-{n}", 7)[1] for n in range(3000)} == set(questions)


def test_a_local_vlm_gives_the_same_replies_after_a_kill(inputs, tmp_path):
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "i.png")
    prompts = [
        ChatRequest(({"role": "user", "content": f"what {n}?"},), "i", str(tmp_path / "i.png"), 5, 1.0, 1.0)
        for n in range(20)
    ]
    settings = {"local": TextModel(model=str(inputs["base_models"] / "vlm"))}

    def ask(name):
        with ChatModels(settings, Compute(device="cpu"), tmp_path / name) as models:
            return models["local"].ask(prompts)

    whole = ask("whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn.jsonl").write_text("".join(lines[:7]) + lines[7][:20])
    assert ask("torn.jsonl") == whole and len({reply.version for reply in whole}) == 1


def test_a_prompt_too_long_for_a_local_vlm_has_no_reply_and_the_others_have(inputs, tmp_path):
    texts = ["what is this?", "what is this? " * 3000, "how many tanks?"]
    prompts = [ChatRequest(({"role": "user", "content": text},), "", None, 5, 0.0, 1.0) for text in texts]
    settings = {"local": TextModel(model=str(inputs["base_models"] / "vlm"))}
    with ChatModels(settings, Compute(device="cpu"), tmp_path / "log.jsonl") as models:
        first, long, last = models["local"].ask(prompts)
    assert isinstance(first, Reply) and isinstance(last, Reply)
    assert long == NoReply("prompt_too_long", "the prompt has more than 4096 tokens of text")


def test_a_question_too_long_for_a_model_is_quarantined_before_any_model_is_asked(inputs, settings, tmp_path):
    shutil.copytree(inputs["instruction_samples"], tmp_path / "samples")
    rows = read_table(tmp_path / "samples" / "samples.parquet")
    long = [row for row in rows if row["split"] == "preference" and len(row["messages"]) > 1][:3]
    for row in long:
        row["messages"][0]["content"] += " and then?" * 400
    write_table(tmp_path / "samples" / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
    out = tmp_path / "out"
    out.mkdir()
    changed = inputs | {"instruction_samples": tmp_path / "samples"}
    metrics = instruction_preferences.run(changed, out, settings, SilentLogger())
    assert metrics["quarantined/prompt_too_long"] == 3.0
    quarantined = [row for row in read_table(out / "quarantine.parquet") if row["reason"] == "prompt_too_long"]
    assert {row["sample_id"] for row in quarantined} == {row["sample_id"] for row in long}
    assert all("bytes, at most 3072" in row["detail"] for row in quarantined)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge": "nobody"}, "judge 'nobody' is unknown"),
        ({"answerers": ["nobody"]}, "answerers: nobody unknown"),
        ({"judge_sample": 5}, "judge_sample measures a judge in models"),
        ({"rs_specific": {"images": 3, "answerers": ["vlm", "m"]}}, "rs_specific needs a judge in models"),
        ({"judge": "recorded_corruption", "answerers": ["m"]}, "cannot mark what m writes"),
        ({"imports": {"caption": [{"format": "ultrafeedback", "path": "x"}]}}, "holds no such pairs"),
    ],
)
def test_incompatible_settings_are_refused(settings, change, message):
    base = settings.preference_data.model_dump() | {"models": {"m": {"model": "a/b"}}}
    with pytest.raises(ValueError, match=message):
        PreferenceData.model_validate(base | change)
