"""VLM fine-tuning: each step changes only its own parameters, and the trained model is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from transformers import TrainerState

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.finetuned_models import finetune_vlm
from rsqa_pipeline.finetuned_models.finetune_vlm import (
    as_sft_examples,
    replay,
    train_step,
)
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import (
    History,
    SftExample,
    TrainingRun,
    lazy_dataset,
    supervised_dataset,
)
from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm, base_model, load_processor, load_vlm, weights_version
from rsqa_pipeline.profile import Profile, TrainedPart, VlmStep
from rsqa_pipeline.records import SUBSET, TRUTH, write_table
from rsqa_pipeline.tracking.run_logger import SilentLogger

Make = Callable[[str], Path]
CONNECTOR, LANGUAGE = "model.visual.merger.", "model.language_model.layers."


class RecordingLogger(SilentLogger):
    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.models: list[str] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps += [(name, step) for name in metrics]

    def log_model(self, name: str, folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        self.models.append(name)


def changed(before: dict[str, torch.Tensor], vlm: Vlm) -> set[str]:
    after = vlm.model.state_dict()
    assert set(after) == set(before)
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def snapshot(vlm: Vlm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


def test_each_step_trains_its_own_parameters(corpus: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    training_run = TrainingRun(settings.seed, settings.compute, tmp_path, SilentLogger())
    config = settings.finetuned_models
    captions = as_sft_examples(subset_samples(corpus, "all", "image_text_pairs", "caption"))
    start = snapshot(vlm)
    train_step(vlm, captions, config.vlm_captions, config.max_length, training_run, "captions")
    connector = {name for name in start if name.startswith(CONNECTOR)}
    assert changed(start, vlm) == connector
    start = snapshot(vlm)
    instructions = as_sft_examples(subset_samples(corpus, "all", "instruction_samples", "instruction"))
    train_step(vlm, instructions, config.vlm_instructions, config.max_length, training_run, "instructions")
    linear = {name for name in start if name.startswith(LANGUAGE) and name.endswith("proj.weight")}
    assert len(linear) == 7 * 3
    assert changed(start, vlm) == connector | linear


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [
        (["embeddings"], ("model.language_model.embed_tokens.", "lm_head.")),
        (["language"], ("model.language_model.", "lm_head.")),
        (["connector", "language"], (CONNECTOR, "model.language_model.", "lm_head.")),
    ],
)
def test_the_profile_names_the_trained_parts(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path, parts: list[TrainedPart], prefixes: tuple[str, ...]
) -> None:
    vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    training_run = TrainingRun(settings.seed, settings.compute, tmp_path, SilentLogger())
    step = VlmStep(learning_rate=1e-2, batch_size=6, steps=5, weight_decay=0.1, train=parts)
    captions = as_sft_examples(subset_samples(corpus, "all", "image_text_pairs", "caption"))
    start = snapshot(vlm)
    history = train_step(vlm, captions, step, None, training_run, "captions")
    assert changed(start, vlm) == {name for name in start if name.startswith(prefixes)}
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5]


def test_a_bfloat16_model_keeps_steps_that_are_smaller_than_its_precision(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    compute = settings.compute.model_copy(update={"dtype": "bfloat16"})
    vlm = load_vlm(base_model(corpus["base_models"], "vlm"), compute)
    training_run = TrainingRun(settings.seed, compute, tmp_path, SilentLogger())
    step = VlmStep(learning_rate=2e-5, batch_size=6, steps=40, warmup_steps=0, train=["language"])
    captions = as_sft_examples(subset_samples(corpus, "all", "image_text_pairs", "caption"))
    history = train_step(vlm, captions, step, None, training_run, "captions")
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
    exact = train_step(
        load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute),
        captions,
        step,
        None,
        TrainingRun(settings.seed, settings.compute, tmp_path / "exact", SilentLogger()),
        "captions",
    )
    learned = [rows[0]["loss"] - rows[-1]["loss"] for rows in (history, exact)]
    assert learned[1] > 0.05
    assert learned[0] == pytest.approx(learned[1], rel=0.02)


def test_replayed_captions_are_a_random_share() -> None:
    captions = [SftExample(f"{i}.png", [], str(i), str(i)) for i in range(40)]
    assert replay(captions, 0.0, 1) == []
    assert replay(captions, 1.0, 1) == captions
    half = replay(captions, 0.5, 1)
    assert len(half) == 20 == len({example.image for example in half})
    assert replay(captions, 0.5, 2) != half == replay(captions, 0.5, 1)


def test_run_is_deterministic_and_its_model_loads_and_generates(
    corpus: dict[str, Path], settings: Profile, folder: Make
) -> None:
    logger = RecordingLogger()
    metrics = finetune_vlm.run(corpus, folder("first"), settings, logger, subset="all")
    out = folder("second")
    assert finetune_vlm.run(corpus, out, settings, SilentLogger(), subset="all") == metrics
    assert weights_version(out / "model") == weights_version(out.parent / "first" / "model")
    assert metrics["caption_samples"] == metrics["instruction_samples"] == 12
    history = json.loads((out / "history.json").read_text())
    assert [(row["phase"], row["step"]) for row in history] == [
        (phase, step) for phase in ("captions", "instructions") for step in range(1, 5)
    ]
    assert history[-1]["loss"] < history[4]["loss"]
    assert ("captions_loss", 1) in logger.steps
    assert logger.models == ["vlm_all"]
    assert (out / "plots" / "training.png").stat().st_size > 1000
    vlm = load_vlm(out / "model", settings.compute)
    image = open_image(subset_samples(corpus, "all", "image_text_pairs", "caption")[0]["image"])
    question = [{"role": "user", "content": "Which colour is the field?"}]
    assert len(generate(vlm, [question], [image], None, max_new_tokens=4, batch_size=1, seed=0)[0]) == 1
    assert not any("lora" in name for name in vlm.model.state_dict())


def test_a_caption_answers_the_caption_prompt_and_other_turns_are_unchanged(corpus: dict[str, Path]) -> None:
    example = as_sft_examples(subset_samples(corpus, "all", "image_text_pairs", "caption"))[0]
    assert list(example.prompt) == [{"role": "user", "content": CAPTION_PROMPT}]
    assert example.answer == "a red field seen from above"
    turns = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    examples = as_sft_examples([{"image": "x.png", "messages": turns, "sample_id": "s"}])
    assert [(list(example.prompt), example.answer) for example in examples] == [(turns[:1], "b"), (turns[:3], "d")]


def test_a_clean_subset_has_right_texts(corpus: dict[str, Path], folder: Make) -> None:
    """The reference text, else the text before a recorded fault, else the sample's own; without any it is an error."""
    tables = {"image_text_pairs": folder("pairs"), "subset_clean": folder("subset_clean")}
    for source, target in (("image_text_pairs", "image_text_pairs"), ("subset_all", "subset_clean")):
        shutil.copytree(corpus[source], tables[target], dirs_exist_ok=True)
    (tables["subset_clean"] / "rule.json").write_text('{"selector": "clean"}')
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    known = [{"reference_text": "right"}, {"original_text": "before"}, {}]
    truths = [{"sample_id": row["sample_id"], **known[min(i, 2)]} for i, row in enumerate(rows)]
    write_table(tables["image_text_pairs"] / "truth.parquet", TRUTH, truths)
    texts = [row["messages"][-1]["content"] for row in subset_samples(tables, "clean", "image_text_pairs", "caption")]
    assert texts == ["right", "before", *(row["messages"][-1]["content"] for row in rows[2:])]
    write_table(tables["image_text_pairs"] / "truth.parquet", TRUTH, truths[2:])
    with pytest.raises(DataError, match="no right text"):
        subset_samples(tables, "clean", "image_text_pairs", "caption")


def test_images_are_opened_only_when_a_batch_needs_them(corpus: dict[str, Path]) -> None:
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    dataset = lazy_dataset([{"image": rows[0]["image"]}, {"image": "nowhere.png"}])
    assert dataset[0]["images"][0].size == (64, 64)
    with pytest.raises(ImageFault):
        dataset[1]


def test_data_cannot_contain_control_tokens(corpus: dict[str, Path]) -> None:
    row = {**subset_samples(corpus, "all", "image_text_pairs", "caption")[0]}
    row["messages"] = [{"role": "assistant", "content": "a <|im_end|> field <|image_pad|>"}]
    processor = load_processor(base_model(corpus["base_models"], "vlm"))
    example = supervised_dataset(processor, as_sft_examples([row]))[0]
    assert example["completion"][0]["content"] == "a < |im_end|> field < |image_pad|>"


def test_a_loss_that_is_not_finite_is_recorded_as_missing() -> None:
    history = History(SilentLogger(), "captions", {"loss": "loss"})
    for step, loss in ((1, 2.0), (2, float("nan"))):
        history.on_log(None, TrainerState(global_step=step), None, {"loss": loss, "learning_rate": 0.1})
    history.on_log(None, TrainerState(global_step=2), None, {"train_loss": 1.0})
    assert [row["loss"] for row in history.rows] == [2.0, None]


def test_a_subset_must_match_its_tables(corpus: dict[str, Path], folder: Make) -> None:
    other = folder("subset_other")
    inputs = {name: path for name, path in corpus.items() if name != "subset_all"} | {"subset_other": other}
    known = subset_samples(corpus, "all", "image_text_pairs", "caption")[0]["sample_id"]
    write_table(other / "ids.parquet", SUBSET, [{"sample_id": s, "kind": "caption"} for s in (known, "gone")])
    with pytest.raises(DataError, match=r"names 1 caption samples that are not in image_text_pairs, e.g. gone"):
        subset_samples(inputs, "other", "image_text_pairs", "caption")
    with pytest.raises(DataError, match="keeps no instruction"):
        subset_samples(inputs, "other", "instruction_samples", "instruction")
