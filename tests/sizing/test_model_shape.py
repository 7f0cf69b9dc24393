"""Numbers of weights are exact, and FLOPs are those that torch counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.sizing.flops import clip_flops, language_flops, vision_flops
from rsqa_pipeline.sizing.model_shape import KNOWN, ClipShape, VlmShape, clip_shape, vlm_shape

SHIPPED = Path("rsqa_pipeline/tiny_models/checkpoints")


def vlm_config(shape: VlmShape, heads: int, key_heads: int) -> Qwen2VLConfig:
    text: dict[str, Any] = {
        "hidden_size": shape.text.width,
        "intermediate_size": shape.text.mlp,
        "num_hidden_layers": shape.text.count,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": shape.vocabulary,
    }
    vision = {
        "depth": shape.vision.count,
        "embed_dim": shape.vision.width,
        "hidden_size": shape.text.width,
        "num_heads": 16,
        "patch_size": shape.patch,
    }
    return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape.tied)


@pytest.mark.parametrize(
    ("model", "heads", "key_heads", "published"),
    [("Qwen/Qwen2-VL-2B-Instruct", 12, 2, 2_208_985_600), ("Qwen/Qwen2-VL-7B-Instruct", 28, 4, 8_291_375_616)],
)
def test_qwen2_vl_has_its_published_size(model: str, heads: int, key_heads: int, published: int) -> None:
    shape = vlm_shape(model)
    with torch.device("meta"):
        made = Qwen2VLForConditionalGeneration(vlm_config(shape, heads, key_heads))
    if shape.tied:
        made.tie_weights()
    vision = sum(weight.numel() for weight in made.model.visual.parameters())
    assert shape.vision_weights == vision
    assert shape.connector == sum(weight.numel() for weight in made.model.visual.merger.parameters())
    assert shape.weights == sum(weight.numel() for weight in made.parameters()) == published


def test_clip_has_its_published_size() -> None:
    shape = clip_shape("openai/clip-vit-large-patch14")
    with torch.device("meta"):
        made = CLIPModel(
            CLIPConfig(
                text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
                vision_config={
                    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14,
                    "num_attention_heads": 16,
                },
                projection_dim=768,
            )
        )  # fmt: skip
    assert shape.vision_weights == sum(weight.numel() for weight in made.vision_model.parameters())
    assert shape.weights == sum(weight.numel() for weight in made.parameters()) == 427_616_513


def test_a_folder_has_the_shape_of_its_configuration() -> None:
    from safetensors import safe_open

    for kind, shape in (("vlm", vlm_shape(str(SHIPPED / "vlm"))), ("clip", clip_shape(str(SHIPPED / "clip")))):
        with safe_open(SHIPPED / kind / "model.safetensors", "pt") as weights:
            stored = sum(weights.get_tensor(name).numel() for name in list(weights.keys()))
        assert shape.weights == stored
    assert vlm_shape("scratch") == vlm_shape(str(SHIPPED / "vlm"))


def test_flops_are_those_that_torch_counts() -> None:
    # eager attention: torch does not count the fused one on a CPU
    shape = vlm_shape(str(SHIPPED / "vlm"))
    made = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig.from_pretrained(SHIPPED / "vlm", attn_implementation="eager")
    ).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(input_ids=torch.full((1, 200), 20), use_cache=False)
    assert language_flops(shape, 200, 200) == pytest.approx(counter.get_total_flops(), rel=0.05)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.model.visual(torch.zeros(256, 2 * 3 * 64), torch.tensor([[1, 16, 16]]))
    assert vision_flops(shape, 64) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_flops_of_clip_are_those_that_torch_counts() -> None:
    shape = clip_shape(str(SHIPPED / "clip"))
    made = CLIPModel(CLIPConfig.from_pretrained(SHIPPED / "clip", attn_implementation="eager")).eval()
    for part, expected in zip(("vision", "text"), clip_flops(shape, 40), strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if part == "vision":
                made.get_image_features(torch.zeros(1, 3, shape.image, shape.image))
            else:
                made.get_text_features(torch.ones(1, 40, dtype=torch.long))
        assert expected == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_an_unknown_model_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'someone/Some-VLM' is unknown; known: Qwen/.*Add it to KNOWN in"):
        vlm_shape("someone/Some-VLM")
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(UsageError, match=r"model type 'blip' is unknown; qwen2_vl is known here"):
        vlm_shape(str(tmp_path))
    with pytest.raises(UsageError, match=r"is a CLIP; tiny_models\.vlm"):
        vlm_shape("openai/clip-vit-large-patch14")
    assert all(isinstance(shape, VlmShape | ClipShape) for shape in KNOWN.values())
