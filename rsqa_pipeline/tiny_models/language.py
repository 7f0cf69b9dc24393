"""The second phase of the VLM's recipe: its language model learns to describe what the vision tower sees.

It learns to answer questions and to write captions. It also learns image-text matching: a linear layer on a text's last
token predicts whether the text is right about the image and, if not, what is wrong. General VLMs are pre-trained on
both. The tower stays frozen after perception, so each image is encoded once for several texts, without a gradient. The
texts of an image share sequences (`models.branches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rsqa_pipeline.models.branches import branch_positions, tree_mask
from rsqa_pipeline.models.conversation import render
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.records import Message
from rsqa_pipeline.tiny_models.architecture import WIDTH
from rsqa_pipeline.tiny_models.perception import vlm_tower

MAX_ROW_TOKENS = 140
"""Text tokens after one image; only a single longer text may exceed it. Attention cost grows with the square."""
MATCHING_WEIGHT = 0.5
_RIGHT = 0


@dataclass(frozen=True)
class Answered:
    """A question about an image and the answer to learn. A caption answers CAPTION_PROMPT."""

    image: int
    """Row of the batch's images."""
    question: str
    answer: str


@dataclass(frozen=True)
class Matched:
    """A question, an answer to it, and what is wrong in that answer."""

    image: int
    question: str
    answer: str
    fault: str | None
    """One of the material's faults; None if the answer fits the image."""


Text = Answered | Matched


class Matching(nn.Linear):
    """Predicts from a text's last token if it fits its image or which fault it has; not saved after training."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(WIDTH, 1 + len(faults))
        nn.init.zeros_(self.weight)  # the same start for every run
        nn.init.zeros_(self.bias)
        self.faults = tuple(faults)

    def label(self, text: Matched) -> int:
        return _RIGHT if text.fault is None else 1 + self.faults.index(text.fault)


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens after the image, and how many of them are the question."""

    text: Text
    ids: list[int]
    question_length: int


def language_loss(
    model: Any, processor: QwenVLProcessor, matching: Matching, images: np.ndarray, texts: Sequence[Text]
) -> torch.Tensor:
    """Mean over answers of the mean cross-entropy per token (end token included), plus the matching loss.

    A one-word answer weighs as much as a caption; with a mean over all tokens, captions would dominate. The loss of an
    answer equals the model's own loss for that answer in a separate sequence (a test compares them).

    Args:
        images: uint8 (b, h, w, 3), of the model's size.
        texts: about those images; at least one `Answered`.
    """
    with torch.no_grad():
        seen = vlm_tower(model)(images)
    prefix, tokens = _tokens(processor, texts, seen.shape[1])
    rows = _packed(tokens)
    ids, branches = _tensors(rows, prefix, processor.tokenizer.pad_token_id, model.device)
    hidden = _hidden(model, processor, seen[[row[0].text.image for row in rows]], ids, branches)
    answers, last_tokens = _target_indices(rows, len(prefix))
    loss = _answer_loss(model, hidden, ids, answers)
    if not last_tokens:
        return loss
    index = torch.tensor([(row, token) for row, token, _ in last_tokens])
    labels = torch.tensor([matching.label(text) for _, _, text in last_tokens], device=hidden.device)
    matched = matching(hidden[index[:, 0], index[:, 1]]).float()
    return loss + MATCHING_WEIGHT * F.cross_entropy(matched, labels)


def _target_indices(
    rows: Sequence[Sequence[_Tokens]], shared: int
) -> tuple[list[tuple[int, range]], list[tuple[int, int, Matched]]]:
    """Row and token indices of each answer to learn; row and last token index of each text to match."""
    answers: list[tuple[int, range]] = []
    last_tokens: list[tuple[int, int, Matched]] = []
    for row, line in enumerate(rows):
        end = shared
        for part in line:
            start, end = end, end + len(part.ids)
            if isinstance(part.text, Matched):
                last_tokens.append((row, end - 1, part.text))
            else:
                answers.append((row, range(start + part.question_length, end)))
    return answers, last_tokens


def _answer_loss(
    model: Any, hidden: torch.Tensor, ids: torch.Tensor, answers: Sequence[tuple[int, range]]
) -> torch.Tensor:
    """Mean over answers of the mean cross-entropy per token.

    All tokens are indexed from ``hidden`` at once: one slice per answer would need one full-size gradient per answer.
    """
    index = torch.tensor([(row, token) for row, tokens in answers for token in tokens], device=hidden.device)
    weights = torch.tensor([1 / len(tokens) for _, tokens in answers for _ in tokens], device=hidden.device)
    logits = model.lm_head(hidden[index[:, 0], index[:, 1] - 1]).float()
    losses = F.cross_entropy(logits, ids[index[:, 0], index[:, 1]], reduction="none")
    return (weights * losses).sum() / len(answers)


def _hidden(
    model: Any, processor: QwenVLProcessor, seen: torch.Tensor, ids: torch.Tensor, branches: torch.Tensor
) -> torch.Tensor:
    """The last layer's states (rows, tokens, WIDTH); ``seen`` (rows, cells, WIDTH) are the rows' image tokens."""
    embeddings = model.get_input_embeddings()(ids)
    at_image = ids == processor.image_token_id
    embeddings = embeddings.masked_scatter(at_image[..., None], seen.to(embeddings.dtype))
    allowed = tree_mask((branches >= 0).long(), branches)["full_attention"]
    lowest = torch.finfo(embeddings.dtype).min
    mask = torch.zeros(allowed.shape, dtype=embeddings.dtype, device=ids.device).masked_fill(~allowed, lowest)
    shared = (branches == 0).long()
    side = round(seen.shape[1] ** 0.5) * processor.image_processor.merge_size
    grid = torch.tensor([[1, side, side]] * len(ids), device=ids.device)
    positions, _ = model.model.get_rope_index(ids, at_image.int(), image_grid_thw=grid, attention_mask=shared)
    states: torch.Tensor = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": mask},
        position_ids=branch_positions(positions, shared, branches),
        use_cache=False,
    ).last_hidden_state
    return states


def _tokens(processor: QwenVLProcessor, texts: Sequence[Text], image_tokens: int) -> tuple[list[int], list[_Tokens]]:
    """The tokens up to the end of the image, shared by all texts, and the tokens of each text."""
    tokenizer, token = processor.tokenizer, processor.image_token
    end = "<|vision_end|>"
    prefix, prompts, answers = "", [], []
    for text in texts:
        question = Message(role="user", content=text.question)
        answer = Message(role="assistant", content=text.answer)
        prompt = render(processor, [question], True, add_generation_prompt=True)
        prefix, _, rest = prompt.partition(end)
        whole = render(processor, [question, answer], True).partition(end)[2]
        prompts.append(rest)
        # a generated answer ends with the end token; in a scored text the template's line break follows it
        answers.append(whole[len(rest) :] if isinstance(text, Matched) else text.answer + tokenizer.eos_token)
    shared = tokenizer((prefix + end).replace(token, token * image_tokens), add_special_tokens=False)["input_ids"]
    questions = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    replies = tokenizer(answers, add_special_tokens=False)["input_ids"]
    parts = zip(texts, questions, replies, strict=True)
    return shared, [_Tokens(text, question + reply, len(question)) for text, question, reply in parts]


def _packed(tokens: Sequence[_Tokens]) -> list[list[_Tokens]]:
    """Packs the texts into rows of one image and MAX_ROW_TOKENS text tokens: longest first, first fit."""
    rows: dict[int, list[list[_Tokens]]] = {}
    for part in sorted(tokens, key=lambda part: -len(part.ids)):
        image_rows = rows.setdefault(part.text.image, [])
        fitting = (row for row in image_rows if sum(len(p.ids) for p in row) + len(part.ids) <= MAX_ROW_TOKENS)
        row = next(fitting, None)
        if row is None:
            image_rows.append([part])
        else:
            row.append(part)
    return [row for _, image_rows in sorted(rows.items()) for row in image_rows]


def _tensors(
    rows: Sequence[Sequence[_Tokens]], prefix: list[int], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (rows, tokens), padded on the right; branches: 0 shared, 1.. one per text, -1 padding."""
    width = len(prefix) + max(sum(len(part.ids) for part in row) for row in rows)
    ids, branches = torch.full((len(rows), width), pad), torch.full((len(rows), width), -1)
    for index, row in enumerate(rows):
        line = prefix + [token for part in row for token in part.ids]
        ids[index, : len(line)] = torch.tensor(line)
        line_branches = [0] * len(prefix) + [branch for branch, part in enumerate(row, start=1) for _ in part.ids]
        branches[index, : len(line)] = torch.tensor(line_branches)
    return ids.to(device), branches.to(device)
