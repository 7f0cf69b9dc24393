"""A tiny model of each family with random weights, and a processor with the chat template that the family has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
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
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.tiny_models.architecture import train_vlm_processor

SIDE = 32
"""Of an image in pixels, or of one tile of it."""
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**LAYERS, "model_type": "llama", "num_key_value_heads": 2}
SPECIAL = ["<pad>", "<|begin_of_text|>", "<|end_of_text|>", "<image>"]
LLAVA_AS_PUBLISHED = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""It reads content only as a list of parts, and writes neither the start of the text nor the end of an answer."""
IDEFICS3_AS_PUBLISHED = (
    "<|begin_of_text|>{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Its end of a turn is not the tokenizer's end of sequence, at which generation stops."""


def tiny_family(family: str, texts: Sequence[str]) -> tuple[Any, Any]:
    """Model and processor of a family; the tokenizer is trained on ``texts``. Equal for equal arguments."""
    build = {"llava": _llava, "idefics3": _idefics3}.get(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if build is not None:
            return build(_tokenizer(texts))
        processor = train_vlm_processor(texts, image_size=SIDE)
        return tiny_qwen(family, processor), processor


def write_family(family: str, texts: Sequence[str], folder: Path) -> Path:
    """Saves model and processor as the family's makers do."""
    for part in tiny_family(family, texts):
        part.save_pretrained(folder)
    return folder


def tiny_qwen(family: str, processor: QwenVLProcessor) -> Any:
    """A tiny model of a Qwen family."""
    token = processor.tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    text: dict[str, Any] = {**LAYERS, "num_key_value_heads": 2, "vocab_size": len(processor.tokenizer)}
    text |= {"rope_parameters": rope, "eos_token_id": processor.tokenizer.eos_token_id}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8}
    ids = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    if family == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 32}
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    text |= {"head_dim": 16, "rope_parameters": {**rope, "mrope_interleaved": True}}
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = [*SPECIAL, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    trainer = trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    pad, start, end, _ = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=pad, bos_token=start, eos_token=end)


def _llama(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {**LLAMA, **ids, "vocab_size": len(tokenizer) + 3}  # Idefics3's processor adds tokens


def _llava(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    tower = {**LAYERS, "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 8, "projection_dim": 32}
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(text_config=_llama(tokenizer), vision_config=tower, image_token_id=image, image_seq_length=16)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        images, tokenizer, 8, "default", chat_template=LLAVA_AS_PUBLISHED, num_additional_image_tokens=1
    )
    return LlavaForConditionalGeneration(config), processor


def _idefics3(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    config = Idefics3Config(
        text_config=_llama(tokenizer),
        vision_config={**LAYERS, "image_size": SIDE, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(images, tokenizer, 4, chat_template=IDEFICS3_AS_PUBLISHED)
    return Idefics3ForConditionalGeneration(config), processor
