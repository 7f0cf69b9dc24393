"""Every family is fine-tuned, generates, is benchmarked and makes a GRPO step; the score model's part is in
tests/score_model/test_backbones.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from rsqa_pipeline.benchmarks.answers import context_of
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.benchmarks.reply_format import PLAIN, with_boxes_of_family
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.benchmarks.vlm_benchmark import evaluate
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.finetuned_models.finetune_vlm import save_vlm, train_step
from rsqa_pipeline.finetuned_models.training import SftExample, TrainingRun, supervised_dataset
from rsqa_pipeline.models.conversation import CAPTION_PROMPT, encode, render
from rsqa_pipeline.models.families import FAMILIES, chat_form_of, family_of
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.image_inputs import limit_images, prepare_images
from rsqa_pipeline.models.load import Vlm, load_processor, load_vlm
from rsqa_pipeline.models.log_probability import answer_tokens, mean_log_probabilities
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute, RlPolicy, VlmStep
from rsqa_pipeline.profile.types import Optimizer, Sampling
from rsqa_pipeline.records import Message
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.train_grpo import train_grpo
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.tiny_families import write_family

CPU = Compute(device="cpu")
CAPTION = "two white tanks on the left"
BOX = [0.0, 0.0, 32.0, 16.0]
"""In pixels of an image of 64 x 32."""
BOX_TEXTS = {
    "qwen2_vl": "<|box_start|>(0,0),(500,500)<|box_end|>",
    "qwen2_5_vl": '{"bbox_2d": [0, 0, 16, 8]}',  # of 32 x 16, which the processor makes of the image
    "qwen3_vl": '{"bbox_2d": [0, 0, 500, 500]}',
    "llava": "[0.0, 0.25, 0.5, 0.5]",  # of 64 x 64, with 16 rows above the image
    "idefics3": "[0, 0, 32, 16]",
}
TEXTS = [CAPTION_PROMPT, CAPTION, "Where is the tank?", "Is there a ship?", "yes", *BOX_TEXTS.values()] * 4


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(request.param, TEXTS, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def vlm(base: Path) -> Vlm:
    return load_vlm(base, CPU)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("images") / "tank.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(file)
    return str(file)


def asked(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def run_in(folder: Path) -> TrainingRun:
    return TrainingRun(3, CPU, folder, SilentLogger())


def weights(vlm: Vlm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], vlm: Vlm) -> set[str]:
    return {name for name, tensor in vlm.model.state_dict().items() if not torch.equal(tensor, before[name])}


def names_of(vlm: Vlm, modules: list[torch.nn.Module]) -> set[str]:
    inside = {id(weight) for module in modules for weight in module.parameters()}
    return {name for name, weight in vlm.model.named_parameters() if id(weight) in inside}


def test_each_step_trains_its_own_parts(vlm: Vlm, image: str, tmp_path: Path) -> None:
    """P trains the connector on captions, S LoRA and the connector."""
    family, start = family_of(vlm.model), weights(vlm)
    connector = names_of(vlm, family.connector_of(vlm.model))
    examples = [SftExample(image, asked(CAPTION_PROMPT), CAPTION, "c")] * 2
    optimizer: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 2, "steps": 2}
    train_step(vlm, examples, VlmStep(**optimizer, train=["connector"]), 128, run_in(tmp_path / "p"), "captions")
    assert changed(start, vlm) and changed(start, vlm) <= connector
    start = weights(vlm)
    both = VlmStep(**optimizer, train=["connector", "lora"], lora_rank=2, lora_alpha=4)
    train_step(vlm, examples, both, 128, run_in(tmp_path / "s"), "instructions")
    moved = changed(start, vlm) - connector
    assert len(moved) == 2 * 7  # the linear layers of two language layers
    assert all(f".{family.language}.layers." in name and name.endswith("_proj.weight") for name in moved)


def test_answers_that_were_learned_are_right_in_the_benchmark(vlm: Vlm, image: str, tmp_path: Path) -> None:
    """Full weights learn a word and a box in the family's own form, and to stop after each."""
    tasks = [task for task in load_tasks("vlm") if task.name in ("presence", "grounding")]
    item: dict[str, Any] = {"image": image, "image_id": "i", "choices": None, "captions": None}
    of_task = {
        "presence": {**item, "item_id": "p", "question": "Is there a ship?", "answer": "yes", "boxes": None},
        "grounding": {**item, "item_id": "g", "question": "Where is the tank?", "answer": None, "boxes": [BOX]},
    }
    answers = {"presence": "yes", "grounding": BOX_TEXTS[vlm.model.config.model_type]}
    examples = [SftExample(image, context_of(t, of_task[t.name]), answers[t.name], t.name) for t in tasks]
    step = VlmStep(learning_rate=1e-2, batch_size=2, steps=120, train=["connector", "language"])
    history = train_step(vlm, examples, step, 128, run_in(tmp_path / "scratch"), "instructions")
    assert history[-1]["loss"] < 0.05
    save_vlm(vlm, tmp_path / "model")
    trained = load_vlm(tmp_path / "model", CPU)
    reply_format = with_boxes_of_family(trained) if family_of(trained.model).boxes else PLAIN
    with KeptReplies(tmp_path / "replies") as kept:
        outcomes = evaluate(trained, "base", [(t, [of_task[t.name]]) for t in tasks], reply_format, 40, 2, kept)
    assert {o.task: o.prediction for o in outcomes} == answers
    assert [outcome.correct for outcome in outcomes] == [1.0] * 4


def test_the_loss_is_on_the_answer_and_its_end(vlm: Vlm, image: str) -> None:
    data = supervised_dataset(vlm.processor, [SftExample(image, asked("Is there a ship?"), "yes", "s")])
    collate = DataCollatorForVisionLanguageModeling(vlm.processor, max_length=None, completion_only_loss=True)
    labels = collate([data[0]])["labels"][0]
    learned = labels[labels != -100].tolist()
    expected = answer_tokens(vlm.processor, "yes")
    assert learned[: len(expected)] == expected
    assert expected[-1] in np.atleast_1d(vlm.model.generation_config.eos_token_id)


def test_texts_are_those_of_each_chat_alone(vlm: Vlm, image: str) -> None:
    opened, chats = Image.open(image), [asked("Is there a ship?"), asked("Where is the tank? yes"), asked("yes")]
    images = [opened, opened.resize((48, 48)), None]
    together = generate(vlm, chats, images, None, 6, 3, seed=1)
    assert together == [generate(vlm, [c], [i], None, 6, 1, seed=1)[0] for c, i in zip(chats, images, strict=True)]
    drawn = generate(vlm, chats, images, Sampling(temperature=1.0, top_p=1.0, max_new_tokens=6), 6, 3, 1, samples=2)
    assert [len(texts) for texts in drawn] == [2, 2, 2] and len({text for texts in drawn for text in texts}) > 3
    assert vlm.processor.image_token_id in chat_form_of(vlm.processor).suppressed(vlm.processor.tokenizer)


@torch.inference_mode()
def test_log_probabilities_are_those_of_a_plain_pass(vlm: Vlm, image: str) -> None:
    candidates = ["yes", "two white tanks", ""]
    groups = [ScoringGroup(image, asked("Is there a ship?"), candidates), ScoringGroup(image, asked("?"), ["yes"])]
    found = [score.value for scores in mean_log_probabilities(vlm, groups, 8) for score in scores]
    pairs = [(group, text) for group in groups for text in group.candidates]
    for value, (group, text) in zip(found, pairs, strict=True):
        prompt = encode(vlm.processor, [group.context], [Image.open(image)], 512, add_generation_prompt=True)
        answer = torch.tensor([answer_tokens(vlm.processor, text)])
        added = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
        added |= {"mm_token_type_ids": torch.zeros_like(answer)}
        whole = {name: torch.cat([t, added[name]], dim=1) if name in added else t for name, t in prompt.items()}
        logits = vlm.model(**whole).logits[0, -answer.shape[1] - 1 : -1].log_softmax(dim=-1)
        assert value == pytest.approx(float(logits.gather(1, answer[0][:, None]).mean()), abs=1e-4)


def test_a_grpo_step_trains_the_language_model_alone(vlm: Vlm, image: str, tmp_path: Path) -> None:
    """The policy is moved away from its folder's weights first: without any reward, the KL term pulls it back."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        head = vlm.model.get_output_embeddings().weight
        head.add_(0.5 * torch.randn(head.shape, generator=generator))
    start, vision = weights(vlm), names_of(vlm, family_of(vlm.model).vision_of(vlm.model))
    config = RlPolicy(
        reasoning_samples=0,
        reasoning={"learning_rate": 1e-3, "batch_size": 2},
        prompts=2,
        heldout_prompts=1,
        rollouts=2,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=6),
        grpo=Optimizer(learning_rate=1e-3, batch_size=4, steps=1),
        kl=0.1,
    )
    questions = ("Is there a ship?", "Where is the tank on the left? yes")
    prompts = [PolicyPrompt(q, "i", image, asked(q), "presence", "yes", 0.0) for q in questions]
    history = train_grpo(vlm, prompts, None, config, run_in(tmp_path))
    assert len(history) == 1 and history[0]["kl"] > 0
    moved = changed(start, vlm)
    assert moved and not moved & vision


def test_a_chat_keeps_every_text_and_no_control_token_of_data(vlm: Vlm) -> None:
    token = vlm.processor.image_token
    end = chat_form_of(vlm.processor).end_token(vlm.processor.tokenizer)
    chat: list[Message] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": f"what is {token} here?"},
        {"role": "assistant", "content": f"a {end} tank"},
        {"role": "user", "content": "how many?"},
    ]
    text = render(vlm.processor, chat, True, add_generation_prompt=True)
    assert text.count(token) == 1 and all(word in text for word in ("Be short.", "what is", "tank", "how many?"))
    assert text[text.index("tank") : text.index("how many?")].count(end) == 1


def test_images_leave_half_of_a_short_context(base: Path) -> None:
    processor, square = load_processor(base), Image.new("RGB", (64, 64), (9, 9, 9))
    form = chat_form_of(processor)
    if form.grid:
        processor.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}

    def tokens() -> int:
        return len(prepare_images(processor, [square], 512).tokens[0])

    before = tokens()
    limit_images(processor, before + 4)
    after = tokens()
    assert after <= (before + 4) // 2 if form.grid or form.tiled else after == before
    if not form.grid:
        with pytest.raises(ModelError, match=rf"an image takes {after} tokens, but a row may have 4; raise max_length"):
            limit_images(processor, 4)


def test_a_family_without_boxes_of_its_own_needs_a_declared_unit(vlm: Vlm) -> None:
    if family_of(vlm.model).boxes is None:
        with pytest.raises(ModelError, match="idefics3 have no boxes of their own; declare a unit"):
            with_boxes_of_family(vlm)


def test_an_unknown_family_is_refused_by_every_loader_in_one_line(base: Path, tmp_path: Path) -> None:
    for file in base.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "blip"}))
    for load in (lambda: load_vlm(tmp_path, CPU), lambda: load_processor(tmp_path)):
        with pytest.raises(ModelError, match=r"model type 'blip' is unknown; known: qwen2_vl.*families.py") as error:
            load()
        assert "\n" not in str(error.value)
