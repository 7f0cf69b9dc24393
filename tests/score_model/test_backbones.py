"""Every supported backbone, shared or separate: candidates do not affect each other, and checkpoints round-trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models import image_attention
from rsqa_pipeline.models.families import FAMILIES
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
from tests.tiny_families import tiny_qwen, write_family

SHARED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPLITS = ("train", "heldout")


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint folder of one family, as its makers save it."""
    return write_family(request.param, TEXTS, tmp_path / request.param)


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


@pytest.mark.parametrize("family", SHARED)
def test_images_of_equal_size_attend_in_one_call_as_if_alone(
    family: str, processor: QwenVLProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vlm = tiny_qwen(family, processor)
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


@pytest.mark.parametrize("base", [name for name in FAMILIES if name != "qwen2_vl"], indirect=True)
def test_only_qwen2_vl_is_exported_in_the_released_layout(
    scored: tuple[ScoreModel, ChatEncoder], tmp_path: Path
) -> None:
    scored[0].activation = "softplus"
    with pytest.raises(ModelError, match="supports Qwen2-VL only"):
        scored[0].export_released(tmp_path)
