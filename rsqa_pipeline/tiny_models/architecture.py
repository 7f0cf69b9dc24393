"""Small models of the real classes, with random weights: a Qwen2-VL, a CLIP, and tokenizers trained on given texts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from rsqa_pipeline.models.conversation import CHAT_TEMPLATE
from rsqa_pipeline.models.load import QwenVLProcessor

WIDTH = 128
HEADS = 4
PATCH = 8
MERGE = 2
VISION_LAYERS = 4
VLM_LANGUAGE_LAYERS = 3
CLIP_TEXT_LAYERS = 3
MAX_VOCABULARY_SIZE = 1500
"""The scenes' language is small, but fine-tuning data adds its own words."""
CLIP_TEXT_LENGTH = 77
QUERY_KEY_SCALE = 4.0
"""Factor on the initial query and key weights."""

_VLM_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The end token must not have id 2: transformers' CLIP would assume an old configuration and pool at the largest id.
_CLIP_SPECIAL = ("<|pad|>", "<|endoftext|>", "<|startoftext|>")


def train_vlm_processor(texts: Iterable[str], image_size: int) -> QwenVLProcessor:
    """A Qwen2-VL processor whose byte-level BPE is trained on ``texts``; images become image_size x image_size pixels.

    All images have this size. With 64 px, patches of 8 and merges of 2, an image is 16 tokens.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(texts, _VLM_SPECIAL),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in _VLM_SPECIAL if t not in ("<|im_end|>", "<|endoftext|>")],
    )
    pixels = image_size**2
    images = Qwen2VLImageProcessor(
        patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": pixels, "longest_edge": pixels}
    )
    return QwenVLProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)


def new_vlm(processor: QwenVLProcessor, seed: int) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of about 2 million parameters, initialized from ``seed``."""
    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": VLM_LANGUAGE_LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            # a head's 32 dimensions are 16 rotated pairs: time, height, width
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": VISION_LAYERS,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    _align_queries_and_keys(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _align_queries_and_keys(model: Qwen2VLForConditionalGeneration) -> None:
    """Makes every token attend to similar tokens, more sharply than by chance, before any training.

    A word then attends at once to the image tokens of what it names (`recipe.name_words`). With unrelated queries and
    keys, a small model needs thousands of steps to learn this.
    """
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            attention.q_proj.weight.mul_(QUERY_KEY_SCALE)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


def train_clip_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A CLIP tokenizer (start, text, end; 77 tokens at most) trained on ``texts``."""
    pairs = _byte_pairs(texts, _CLIP_SPECIAL)
    pairs.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(t, pairs.token_to_id(t)) for t in ("<|startoftext|>", "<|endoftext|>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        model_max_length=CLIP_TEXT_LENGTH,
    )


def new_clip_image_processor(image_size: int) -> CLIPImageProcessor:
    """CLIP's image processor: shortest side to ``image_size`` pixels, centre crop, CLIP's mean and deviation."""
    return CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size})


def new_clip(tokenizer: PreTrainedTokenizerFast, image_size: int, seed: int) -> CLIPModel:
    """A CLIP of about 1.7 million parameters, initialized from ``seed``."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": CLIP_TEXT_LAYERS,
            "max_position_embeddings": CLIP_TEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "num_hidden_layers": VISION_LAYERS, "image_size": image_size, "patch_size": PATCH},
        projection_dim=WIDTH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPModel(config)


def _byte_pairs(texts: Iterable[str], special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # one token per digit, as in Qwen: an unseen number consists of known tokens
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
