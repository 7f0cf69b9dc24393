"""Chats as VLM input: the frozen caption prompt, this project's chat template, padded batches of tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.models.families import chat_form_of
from rsqa_pipeline.models.image_inputs import expand, prepare_images
from rsqa_pipeline.records import Message

CAPTION_PROMPT = "Describe this satellite image in detail."
"""The prompt of every caption, in training, scoring and generation. Changing it changes every score."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's template without its video branch, saved with the models that this project creates."""


_CONTROL_TOKEN = re.compile(r"<\|(?!(?:box|quad|object_ref)_(?:start|end)\|>)")


def as_chat(messages: Sequence[Message]) -> list[Message]:
    """Puts the user turn CAPTION_PROMPT before a caption, i.e. before a single assistant turn.

    Example: ``[{"role": "assistant", "content": "two tanks"}]`` becomes a chat of two turns. Any other messages,
    including an empty list, are returned unchanged.
    """
    chat = [Message(role=m["role"], content=m["content"]) for m in messages]
    if len(chat) == 1 and chat[0]["role"] == "assistant":
        return [Message(role="user", content=CAPTION_PROMPT), *chat]
    return chat


def escape_control_tokens(processor: ProcessorMixin, text: str) -> str:
    """Breaks up the tokenizer's control tokens in data, where they are plain text: "<|im_end|>" would end a turn."""
    if chat_form_of(processor).grid:
        return escape_qwen_tokens(text)
    for token in processor.tokenizer.get_added_vocab():
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def escape_qwen_tokens(text: str) -> str:
    """Breaks up Qwen's control tokens, whether the tokenizer has them or not.

    The marks of boxes and of the objects that they belong to are kept: they are part of an answer.
    """
    return _CONTROL_TOKEN.sub("< |", text)


def render(
    processor: ProcessorMixin, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
) -> str:
    """Renders the chat as model input text, with an image placeholder at the start of the first user turn if needed.

    Raises:
        ValueError: the chat has an image but no user turn.
    """
    turns: list[dict[str, Any]] = [
        {"role": m["role"], "content": [{"type": "text", "text": escape_control_tokens(processor, m["content"])}]}
        for m in chat
    ]
    if has_image:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise ValueError("a chat with an image needs a user turn; pass a caption through as_chat first")
        first["content"].insert(0, {"type": "image"})
    text: str = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    return text


def encode(
    processor: ProcessorMixin,
    chats: Sequence[Sequence[Message]],
    images: Sequence[Image.Image | None],
    max_length: int,
    add_generation_prompt: bool = False,
) -> dict[str, torch.Tensor]:
    """Encodes a batch of chats as tensors on the CPU.

    Args:
        chats: one list of messages per row; content is plain text.
        images: one image per row, of any size, or None for a row without an image. The processor resizes images; a
            Qwen-VL's to at most `max_image_tokens`.
        max_length: maximum number of tokens per row, image tokens included. A longer row is cut at the end.
        add_generation_prompt: True for generation: the text ends with the start of the assistant's turn, and padding is
            on the left. Otherwise padding is on the right, so the last real token is at ``attention_mask.sum(1) - 1``.

    Returns:
        input_ids, attention_mask and, for a Qwen-VL, mm_token_type_ids (1 at image tokens), each (b, t) int64. If any
        row has an image, also the images in row order, see `image_inputs.ImageInputs`.

    Raises:
        ValueError: the numbers of chats and images differ, or a generation prompt or an image exceeds max_length.
    """
    if len(chats) != len(images):
        raise ValueError(f"{len(chats)} chats but {len(images)} images; pass None for a chat without an image")
    texts = [
        render(processor, chat, image is not None, add_generation_prompt)
        for chat, image in zip(chats, images, strict=True)
    ]
    # The template contains all special tokens, so none are added. Padding is done here because other users of the same
    # processor may change the tokenizer's padding side.
    rows = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    tensors: dict[str, torch.Tensor] = {}
    if present := [image for image in images if image is not None]:
        shown = prepare_images(processor, present, max_length)
        tensors, tokens = shown.tensors, iter(shown.tokens)
        rows = [
            expand(processor, row, next(tokens)) if image is not None else row
            for row, image in zip(rows, images, strict=True)
        ]
    return {**_pad(processor, rows, max_length, add_generation_prompt), **tensors}


def _pad(processor: ProcessorMixin, rows: list[list[int]], max_length: int, left: bool) -> dict[str, torch.Tensor]:
    pad, image_token = processor.tokenizer.pad_token_id, processor.image_token_id
    width = min(max(len(row) for row in rows), max_length)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        if len(row) > max_length and (left or image_token in row[max_length:]):
            part_name = "prompt" if left else "image"
            raise ValueError(f"row {index}: its {part_name} does not fit max_length {max_length} ({len(row)} tokens)")
        kept = row[:max_length]
        span = slice(width - len(kept), width) if left else slice(0, len(kept))
        ids[index, span] = torch.tensor(kept)
        mask[index, span] = 1
    padded = {"input_ids": ids, "attention_mask": mask}
    if chat_form_of(processor).grid:
        padded["mm_token_type_ids"] = (ids == image_token).to(torch.int64) * mask
    return padded
