"""A watermark in pixels and texts, followed through the stages: preference pairs, benchmark items, GRPO prompts.

Each image has its number in its pixels, each text begins with it. A text that is right about an image (chosen, correct
or asked) must have the image's number wherever the two stand together.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.finetuned_models.training import lazy_dataset
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.preference_data import caption_preferences, instruction_preferences
from rsqa_pipeline.profile import Profile, SourceFile, load_profile
from rsqa_pipeline.profile.preference_data import PairFile, PairImports, PreferenceData
from rsqa_pipeline.records import read_table
from rsqa_pipeline.rl_policy.prompts import PARTS, read_prompts, select_prompts
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs, instruction_samples
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.preference_data.chat_double import Answer, ChatDouble, Seen
from tests.source_pairs import generated_files
from tests.source_pairs.generated_files import Row, number_in_pixels, number_in_text, write

NUMBERS = tuple(range(10, 250, 10))
"""Steps that survive the JPEG which a chat server is sent."""
Form = Callable[[Path, Sequence[Row]], SourceFile]


def profile(**sources: Any) -> Profile:
    """The demo profile on other sources, half of them for preferences."""
    demo = load_profile("demo")
    changed = {**demo.source_pairs.model_dump(), "preference_share": 0.5, "instruction_samples": 500, **sources}
    return demo.model_copy(update={"source_pairs": type(demo.source_pairs).model_validate(changed)})


def stage(module: Any, folder: Path, settings: Profile, **inputs: Path) -> Path:
    """Runs a stage and returns its output folder."""
    out = folder / module.__name__.rsplit(".", 1)[-1]
    out.mkdir()
    module.run(inputs, out, settings, SilentLogger())
    return out


def captioned(folder: Path, form: Form, split: str = "train") -> SourceFile:
    """Two captions of each image; where the format has splits, all of one."""
    source = write(folder / "data", [Row(n, ("tanks near a port", "ships and two cars")) for n in NUMBERS], form)
    path = Path(str(source.path))
    if path.suffix == ".json":
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r'"split": "\w+"', f'"split": "{split}"', text), encoding="utf-8")
    return source


def asked(folder: Path, splits: Sequence[str]) -> SourceFile:
    """Two questions about each image, the answers of which are its number."""
    write(folder / "data", [Row(n, ("a",)) for n in NUMBERS], generated_files.jsonl)
    rows = [
        {
            "image": f"{n}.png",
            "split": split,
            "messages": [{"role": "user", "content": f"{n} {question}"}, {"role": "assistant", "content": str(n)}],
        }
        for n, split in zip(NUMBERS, splits, strict=True)
        for question in ("how many ships are there?", "how many cars are there?")
    ]
    path = folder / "data" / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceFile(format="jsonl", path=str(path), images=str(folder / "data" / "images"))


class NumberWriter:
    """A chat server that reads the number in an image's pixels. Captions with it, and judges only texts with it."""

    def __init__(self) -> None:
        self.judged: list[tuple[int, int]] = []
        """Number in the pixels and in the text of each judgement."""

    def __call__(self, seen: Seen, number: int) -> Answer:
        uri = re.search(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", json.dumps(seen.body))
        assert uri is not None
        red, _, _ = Image.open(io.BytesIO(base64.b64decode(uri[1]))).getpixel((0, 0))  # type: ignore[misc]
        shown = 10 * round(red / 10)
        if "response_format" not in seen.body:
            return Answer(f"{shown} written by {seen.body['model']} {crc32(seen.prompt.encode())}")
        text = seen.prompt.split("<<<\n")[-1].split("\n>>>")[0]
        self.judged.append((shown, number_in_text(text)))
        names = ("relevance", "specificity", "completeness", "clarity", "richness")
        return Answer(json.dumps(dict.fromkeys(names, 1 + crc32(text.encode()) % 9 / 2)))


def with_models(settings: Profile, url: str, **more: Any) -> Profile:
    models = {name: {"model": name, "server": {"url": url, "tries": 1}} for name in ("one", "two", "judge")}
    changed = {
        "models": models, "judge": "judge", "captioners": ["human", "one", "two"], "answerers": ["one", "two"],
        "one_fault_pairs": None, "caption_images": 100, "instruction_samples": 100, **more,
    }  # fmt: skip
    made = PreferenceData.model_validate(settings.preference_data.model_dump() | changed)
    return settings.model_copy(update={"preference_data": made})


@pytest.mark.parametrize("form", generated_files.FORMATS, ids=lambda form: form.__name__)
def test_captions_of_an_image_compete_with_its_own_alone(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = profile(captions=captioned(tmp_path, form).model_dump())
    monkeypatch.chdir(tmp_path)
    folder = stage(image_text_pairs, tmp_path, settings)
    writer = NumberWriter()
    with ChatDouble(writer) as double:
        out = stage(caption_preferences, tmp_path, with_models(settings, double.url), image_text_pairs=folder,
                    base_models=tmp_path)  # fmt: skip
    pairs = read_table(out / "pairs.parquet")
    assert {pair["chosen_source"] for pair in pairs} | {pair["rejected_source"] for pair in pairs} == {
        "human", "one", "two",
    }  # fmt: skip
    for pair in pairs:
        number = number_in_pixels(pair["image"])
        assert number_in_text(pair["chosen"]) == number_in_text(pair["rejected"]) == number
    images = {row["image_id"] for row in read_table(folder / "samples.parquet") if row["split"] == "preference"}
    assert len(writer.judged) == 3 * len(images) > 12
    assert all(shown == said for shown, said in writer.judged)


def test_a_question_meets_its_own_image_its_own_answer_and_wrong_ones_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = profile(instructions=asked(tmp_path, ["train"] * len(NUMBERS)).model_dump())
    monkeypatch.chdir(tmp_path)
    folder = stage(instruction_samples, tmp_path, settings)
    with ChatDouble(NumberWriter()) as double:
        out = stage(instruction_preferences, tmp_path, with_models(settings, double.url), instruction_samples=folder,
                    base_models=tmp_path)  # fmt: skip
    pairs = read_table(out / "pairs.parquet")
    for pair in pairs:
        number = number_in_pixels(pair["image"])
        assert number_in_text(pair["context"][-1]["content"]) == number_in_text(pair["chosen"]) == number
        if pair["rejected_source"] in ("one", "two"):
            assert number_in_text(pair["rejected"]) == number
    assert {pair["rejected_source"] for pair in pairs} >= {"one", "two"}


@pytest.mark.parametrize("form", ["rs_pairs", "trl"])
def test_an_imported_pair_keeps_its_image(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = profile(captions=captioned(tmp_path, generated_files.csv_utf8).model_dump())
    monkeypatch.chdir(tmp_path)
    folder = stage(image_text_pairs, tmp_path, settings)
    rows = [{"image": f"{n}.png", "chosen": f"{n} good", "rejected": f"{n} bad"} for n in NUMBERS]
    if form == "trl":
        rows = [{"images": [row.pop("image")], "prompt": CAPTION_PROMPT, **row} for row in rows]  # type: ignore[dict-item]
    rows[3:3] = [{**rows[5], "images" if form == "trl" else "image": ["gone.png"] if form == "trl" else "gone.png"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = PairFile(
        format=form,  # type: ignore[arg-type]
        path=str(tmp_path / "pairs.jsonl"),
        images=str(tmp_path / "data" / "images"),
    )
    with ChatDouble(NumberWriter()) as double:
        chosen = with_models(settings, double.url, imports=PairImports(caption=[file]))
        out = stage(caption_preferences, tmp_path, chosen, image_text_pairs=folder, base_models=tmp_path)
    imported = [pair for pair in read_table(out / "pairs.parquet") if pair["chosen"].endswith(" good")]
    assert len(imported) == len(NUMBERS)
    for pair in imported:
        assert number_in_text(pair["chosen"]) == number_in_text(pair["rejected"]) == number_in_pixels(pair["image"])


BENCHMARK_FORMS = (generated_files.karpathy, generated_files.coco, generated_files.nwpu_captions)
SPLITS = st.lists(st.sampled_from(["train", "test", "val"]), min_size=len(NUMBERS), max_size=len(NUMBERS)).filter(
    lambda splits: "test" in splits
)


@pytest.mark.parametrize("form", BENCHMARK_FORMS, ids=lambda form: form.__name__)
def test_captions_of_a_benchmark_item_are_those_of_its_image(form: Form, tmp_path: Path) -> None:
    source = captioned(tmp_path, form, "test")
    folder = stage(benchmark_sets, tmp_path, profile(benchmarks=source.model_dump(), benchmark_items=100))
    items = read_table(folder / "items.parquet")
    tasks = Counter(item["task"] for item in items)
    assert tasks["retrieval"] == len(NUMBERS) and sum(count for task, count in tasks.items() if "reward" in task) > 0
    for item in items:
        number = number_in_pixels(item["image"])
        if item["task"] == "retrieval":
            assert {number_in_text(text) for text in item["captions"]} == {number} and len(item["captions"]) == 2
        elif item["task"].startswith("reward_") and item["task"] != "reward_unanswerable":
            assert number_in_text(item["answer"]) == number


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(splits=SPLITS)
def test_own_questions_are_items_of_their_image_and_of_the_test_split_alone(splits: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = asked(Path(name), splits)
        folder = stage(benchmark_sets, Path(name), profile(benchmarks=source.model_dump(), benchmark_items=100))
        items = [item for item in read_table(folder / "items.parquet") if item["task"] == "count"]
        assert Counter(number_in_pixels(item["image"]) for item in items) == Counter(
            {number: 2 for number, split in zip(NUMBERS, splits, strict=True) if split == "test"}
        )
        for item in items:
            assert number_in_text(item["question"]) == int(item["answer"]) == number_in_pixels(item["image"])


class NumberScorer:
    """Scores an answer by its number; fails on one that stands beside another image than its own."""

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        for group in groups:
            assert isinstance(group.image, str)
            numbers = {number_in_text(group.context[-1]["content"]), *map(number_in_text, group.candidates)}
            assert numbers == {number_in_pixels(group.image)}
        return [[float(number_in_text(text)) for text in group.candidates] for group in groups]


def test_a_policy_is_asked_about_the_image_of_its_prompt(tmp_path: Path) -> None:
    settings = profile(instructions=asked(tmp_path, ["train"] * len(NUMBERS)).model_dump())
    samples = read_table(stage(instruction_samples, tmp_path, settings) / "samples.parquet")
    scorer: Any = NumberScorer()
    chosen = select_prompts(samples, scorer, settings.rl_policy, heldout_share=0.4, seed=3)
    chosen.write(tmp_path / "prompts.parquet")
    for part in PARTS:
        read = read_prompts(tmp_path / "prompts.parquet", samples, part)
        assert read == getattr(chosen, part) and read
        rows = lazy_dataset([{"image": p.image, "question": p.context[-1]["content"]} for p in read])
        for prompt, row in zip(read, rows, strict=True):
            number = number_in_text(prompt.reference)
            assert number == number_in_text(row["question"]) == row["images"][0].getpixel((0, 0))[0]
            assert number == prompt.reference_score == number_in_pixels(prompt.image)
