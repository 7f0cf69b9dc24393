"""Every supported backbone, shared or separate: candidates do not affect each other, and checkpoints round-trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    CLIPImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models import image_attention
from rsqa_pipeline.models.load import QwenVLProcessor, weights_version
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.network import shared_backbone
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training import train
from rsqa_pipeline.tiny_models.architecture import new_vlm
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.conftest import TEXTS
from tests.score_model.examples import pair, write_pairs

SHARED, SEPARATE = ("qwen2_5_vl", "qwen3_vl"), ("llava", "idefics3")
SPLITS = ("train", "heldout")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</s>{% endfor %}"
)


def qwen(family: str, processor: QwenVLProcessor) -> Any:
    """A tiny Qwen2.5-VL or Qwen3-VL with random weights."""
    token = processor.tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    text = {**LLAMA, "vocab_size": len(processor.tokenizer), "rope_parameters": rope, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "patch_size": 8}
    ids = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }
    del text["model_type"]
    if family == "qwen2_5_vl":
        del text["head_dim"]
        vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 32}
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    text["rope_parameters"] = {**rope, "mrope_interleaved": True}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))


def separate(family: str) -> tuple[Any, Any]:
    """A tiny LLaVA or Idefics3 with random weights, and its processor."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        TEXTS, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    text = {**LLAMA, "vocab_size": len(tokenizer) + 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    if family == "llava":
        tower = {**vision, "model_type": "clip_vision_model", "projection_dim": 32}
        config = LlavaConfig(text_config=text, vision_config=tower, image_token_id=3, image_seq_length=16)
        images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor = LlavaProcessor(
            images, tokenizer, 8, "default", chat_template=TEMPLATE, num_additional_image_tokens=1
        )
        return LlavaForConditionalGeneration(config), processor
    config = Idefics3Config(text_config=text, vision_config=vision, image_token_id=3, scale_factor=2, pad_token_id=0)
    images = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, tokenizer, 4, chat_template=TEMPLATE)


@pytest.fixture(params=[*SHARED, *SEPARATE])
def base(request: pytest.FixtureRequest, tmp_path: Path, processor: QwenVLProcessor) -> Path:
    """A checkpoint folder of one family, as its makers save it."""
    family = request.param
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vlm, words = (qwen(family, processor), processor) if family in SHARED else separate(family)
    vlm.save_pretrained(tmp_path / family)
    words.save_pretrained(tmp_path / family)
    return tmp_path / family


@pytest.fixture
def scored(base: Path) -> tuple[ScoreModel, ChatEncoder]:
    model = ScoreModel.from_base(str(base))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval(), encoder_for(read_processor(base), 192)


def rows_of(encoder: ChatEncoder) -> list[CandidateRow]:
    asked = [Message(role="user", content="Is the field red or blue?")]
    candidates = (
        ([], "a red field", "red"),
        ([], "a red field seen from above", "red"),
        (asked, "yes", "blue"),
        (asked, "no", "blue"),
        (asked, "no", None),
        ([], "a red field", "blue"),
    )
    return [
        CandidateRow(encoder.tokens(context, text, image is not None), image) for context, text, image in candidates
    ]


@torch.inference_mode()
def test_candidates_of_a_batch_score_as_if_alone(
    scored: tuple[ScoreModel, ChatEncoder], images: dict[str, str]
) -> None:
    model, encoder = scored
    rows = rows_of(encoder)
    pixels = {name: encoder.pixels(images[name]) for name in ("red", "blue")}
    together = model(**encoder.batch(rows, pixels))
    alone = torch.cat([model(**encoder.batch([row], pixels)) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert alone.unique().numel() == len(rows)
    assert ("branches" in encoder.batch(rows, pixels)) == model.shares_sequences


@pytest.mark.parametrize("patches", [1, 33, 10_000])
def test_images_encoded_in_pieces_score_as_if_encoded_at_once(
    scored: tuple[ScoreModel, ChatEncoder], images: dict[str, str], patches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = scored
    pixels = {name: encoder.pixels(images[name]) for name in images}
    batch = encoder.batch([CandidateRow(encoder.tokens([], "a field", True), name) for name in images], pixels)
    expected = model(**batch)  # with gradients all images are encoded at once
    monkeypatch.setattr(shared_backbone, "CPU_PATCHES", patches)
    with torch.inference_mode():
        torch.testing.assert_close(model(**batch), expected.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_vl", *SHARED])
def test_images_of_equal_size_attend_in_one_call_as_if_alone(
    family: str, processor: QwenVLProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vlm = new_vlm(processor, seed=0) if family == "qwen2_vl" else qwen(family, processor)
    tower = vlm.eval().model.visual
    grids = torch.tensor([[1, 4, 4], [1, 4, 4], [1, 6, 2], [1, 4, 4], [1, 4, 4], [1, 4, 4]])
    patches = torch.randn(int(grids.prod(dim=1).sum()), 3 * 2 * 8 * 8, generator=generator)
    calls: list[int] = []

    def counted(query: Tensor, *others: Tensor, **options: Any) -> Tensor:
        calls.append(len(query))
        return scaled_dot_product_attention(query, *others, **options)

    monkeypatch.setattr(image_attention, "scaled_dot_product_attention", counted)

    def of_tower() -> list[Tensor]:
        found = vlm.model.get_image_features(patches, grids).pooler_output
        slope = torch.autograd.grad(torch.cat(tuple(found)).square().sum(), tower.parameters(), allow_unused=True)
        return [*found, *(part for part in slope if part is not None)]

    expected = of_tower()
    assert not calls
    image_attention.attend_to_images_together(vlm.model)
    torch.testing.assert_close(of_tower(), expected, atol=1e-4, rtol=1e-4)
    assert [2, 1, 3] in [calls[start : start + 3] for start in range(len(calls))] and sum(calls) > len(calls)


def test_a_chosen_attention_is_kept_and_ours_is_not_saved(processor: QwenVLProcessor, tmp_path: Path) -> None:
    vlm = new_vlm(processor, seed=0)
    vlm.set_attn_implementation("eager")
    assert ScoreModel(vlm.model).backbone.visual.config._attn_implementation == "eager"
    vlm.set_attn_implementation("sdpa")
    model = ScoreModel(vlm.model)
    assert model.backbone.visual.config._attn_implementation == image_attention.BY_IMAGE
    model.save_pretrained(tmp_path)
    assert image_attention.BY_IMAGE not in (tmp_path / "config.json").read_text()


@torch.inference_mode()
def test_the_score_equals_the_backbones_own_output_at_the_last_token(
    scored: tuple[ScoreModel, ChatEncoder], images: dict[str, str]
) -> None:
    model, encoder = scored
    pixels = encoder.pixels(images["red"])
    for row in rows_of(encoder)[:2]:
        ids = torch.tensor([encoder.expand_image_tokens(row, pixels)])
        types = (ids == model.backbone.config.image_token_id).int()
        extra = {"mm_token_type_ids": types} if model.shares_sequences else {}
        own = model.backbone(input_ids=ids, **pixels.tensors, **extra).last_hidden_state[0, -1]
        found = model(**encoder.batch([row], {"red": pixels}))
        torch.testing.assert_close(found, model.head(own), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_padding_side_and_pad_id_do_not_matter(scored: tuple[ScoreModel, ChatEncoder], images: dict[str, str]) -> None:
    model, encoder = scored
    pixels = {name: encoder.pixels(images[name]) for name in ("red", "blue")}
    batch = encoder.batch([rows_of(encoder)[0], rows_of(encoder)[2]], pixels)
    expected = model(**batch)
    del batch["ends"]
    eos = encoder.processor.tokenizer.eos_token_id
    ids = torch.where(batch["attention_mask"].bool(), batch["input_ids"], eos)
    for sides in ((5, 0), (0, 5)):
        padding = {
            "input_ids": torch.nn.functional.pad(ids, sides, value=eos),
            "attention_mask": torch.nn.functional.pad(batch["attention_mask"], sides),
        }
        torch.testing.assert_close(model(**{**batch, **padding}), expected, atol=1e-4, rtol=0)


def test_a_phase_trains_every_part_and_its_output_scores_the_same(
    tmp_path: Path, base: Path, images: dict[str, str], profile: Callable[..., Profile]
) -> None:
    entry = {"path": str(base), "version": weights_version(base)}
    (tmp_path / "base_models").mkdir()
    (tmp_path / "base_models" / "vlm.json").write_text(json.dumps(entry))
    rows = [pair(image, f"yes {n} field", f"no {n}", s) for n, image in enumerate(images.values()) for s in SPLITS]
    rows.append(pair(None, "yes field", "no"))
    inputs = {"base_models": tmp_path / "base_models", "text_preferences": write_pairs(tmp_path / "pairs", rows)}
    settings = profile(epochs=16, train=["vision", "language", "head"])
    more = {"gradient_checkpointing": True, "tokens_per_pass": 200}
    settings = settings.model_copy(update={"score_model": settings.score_model.model_copy(update=more)})
    (tmp_path / "out").mkdir()
    metrics = train.run_text_phase(inputs, tmp_path / "out", settings, SilentLogger())
    assert metrics["quarantined_rows"] == 0 and metrics["train_loss"] < 0.6
    before, scorer = ScoreModel.from_base(str(base)), Scorer.load(tmp_path / "out" / "model", Compute(device="cpu"))
    moved = {
        name.split(".")[1]
        for name, tensor in scorer.model.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    assert moved == {"weight", *(name for name, _ in before.backbone.named_children())}
    groups = [
        ScoringGroup(row["image"], [], [row["chosen"], row["rejected"]]) for row in rows if row["split"] == "heldout"
    ]
    right = [a > b for a, b in scorer.score(groups)]  # type: ignore[operator]
    assert sum(right) / len(right) == metrics["heldout_accuracy"] == 1


def test_control_words_in_data_stay_plain_text(base: Path) -> None:
    encoder = encoder_for(read_processor(base), 192)
    image = encoder.processor.image_token
    tokens = encoder.tokens([Message(role="user", content=f"what is {image}?")], f"an {image}", True)
    assert tokens.count(encoder.processor.image_token_id) == 1


def test_other_families_are_refused_by_name(base_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model type 'clip' is unknown; known: qwen2_vl, .*families.py"):
        ScoreModel.from_base(str(base_models / "clip"))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ScoreModel"], "score_activation": "none"}))
    with pytest.raises(ModelError, match="model type None is unknown"):
        ScoreModel.from_pretrained(tmp_path)


def test_only_qwen2_vl_is_exported_in_the_released_layout(
    scored: tuple[ScoreModel, ChatEncoder], tmp_path: Path
) -> None:
    scored[0].activation = "softplus"
    with pytest.raises(ModelError, match="supports Qwen2-VL only"):
        scored[0].export_released(tmp_path)
