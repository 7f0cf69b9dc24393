"""The second phase of the VLM's recipe: its language model learns to say what the vision tower sees, and to match.

It answers questions and writes captions, and besides it learns image-text matching: whether a text about an image is
right and, if not, what is wrong in it, told by a linear layer on the text's last token. General VLMs are pre-trained
for both. The tower stays as perception left it, so that each image is read once for several texts and without a
gradient; and the texts of an image share sequences (`models.branches`).
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

ROW_TOKENS = 140
"""Tokens of texts behind one image at most, but for a lone longer text. Attention's cost grows with their square."""
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
    """One of the material's faults; None: nothing, the answer fits the image."""


Text = Answered | Matched


class Matching(nn.Linear):
    """Whether a text fits its image, or which fault it has, from its last token; not kept after training."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(WIDTH, 1 + len(faults))
        nn.init.zeros_(self.weight)  # the same start for every run
        nn.init.zeros_(self.bias)
        self.faults = tuple(faults)

    def label(self, text: Matched) -> int:
        return _RIGHT if text.fault is None else 1 + self.faults.index(text.fault)


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens behind the image, and how many of them are the question."""

    text: Text
    ids: list[int]
    asked: int


def language_loss(
    model: Any, processor: QwenVLProcessor, matching: Matching, images: np.ndarray, texts: Sequence[Text]
) -> torch.Tensor:
    """Mean over the answers of each one's mean cross-entropy a token (its end mark among them), plus matching's.

    A one-word answer weighs as much as a caption; a mean over all tokens would teach captions only. For each answer
    the same number as the model's own loss in a sequence of its own (a test compares them).

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
    said, closing = _read_places(rows, len(prefix))
    loss = _answer_loss(model, hidden, ids, said)
    if not closing:
        return loss
    at = torch.tensor([(row, token) for row, token, _ in closing])
    labels = torch.tensor([matching.label(text) for _, _, text in closing], device=hidden.device)
    matched = matching(hidden[at[:, 0], at[:, 1]]).float()
    return loss + MATCHING_WEIGHT * F.cross_entropy(matched, labels)


def _read_places(
    rows: Sequence[Sequence[_Tokens]], shared: int
) -> tuple[list[tuple[int, range]], list[tuple[int, int, Matched]]]:
    """Row and tokens of each answer to learn; row and last token of each text that is matched."""
    said: list[tuple[int, range]] = []
    closing: list[tuple[int, int, Matched]] = []
    for row, line in enumerate(rows):
        end = shared
        for part in line:
            start, end = end, end + len(part.ids)
            if isinstance(part.text, Matched):
                closing.append((row, end - 1, part.text))
            else:
                said.append((row, range(start + part.asked, end)))
    return said, closing


def _answer_loss(
    model: Any, hidden: torch.Tensor, ids: torch.Tensor, said: Sequence[tuple[int, range]]
) -> torch.Tensor:
    """Mean over the answers of each one's mean cross-entropy a token.

    All tokens are taken out of ``hidden`` at once: a slice an answer would cost a gradient of its whole size each.
    """
    places = torch.tensor([(row, token) for row, tokens in said for token in tokens], device=hidden.device)
    weights = torch.tensor([1 / len(tokens) for _, tokens in said for _ in tokens], device=hidden.device)
    logits = model.lm_head(hidden[places[:, 0], places[:, 1] - 1]).float()
    losses = F.cross_entropy(logits, ids[places[:, 0], places[:, 1]], reduction="none")
    return (weights * losses).sum() / len(said)


def _hidden(
    model: Any, processor: QwenVLProcessor, seen: torch.Tensor, ids: torch.Tensor, branches: torch.Tensor
) -> torch.Tensor:
    """The last layer's states (rows, tokens, WIDTH); ``seen`` (rows, cells, WIDTH) are the rows' image tokens."""
    embeddings = model.get_input_embeddings()(ids)
    at_image = ids == processor.image_token_id
    embeddings = embeddings.masked_scatter(at_image[..., None], seen.to(embeddings.dtype))
    seen_by = tree_mask((branches >= 0).long(), branches)["full_attention"]
    unseen = torch.finfo(embeddings.dtype).min
    mask = torch.zeros(seen_by.shape, dtype=embeddings.dtype, device=ids.device).masked_fill(~seen_by, unseen)
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
    """Tokens up to the image's end, which all texts share, and each text's own."""
    tokenizer, mark = processor.tokenizer, processor.image_token
    cut = "<|vision_end|>"
    prefix, asked, answers = "", [], []
    for text in texts:
        question = Message(role="user", content=text.question)
        answer = Message(role="assistant", content=text.answer)
        prompt = render(processor, [question], True, add_generation_prompt=True)
        prefix, _, rest = prompt.partition(cut)
        whole = render(processor, [question, answer], True).partition(cut)[2]
        asked.append(rest)
        # a generated answer ends with its end mark; a text that is scored has the template's line break behind it
        answers.append(whole[len(rest) :] if isinstance(text, Matched) else text.answer + tokenizer.eos_token)
    shared = tokenizer((prefix + cut).replace(mark, mark * image_tokens), add_special_tokens=False)["input_ids"]
    questions = tokenizer(asked, add_special_tokens=False)["input_ids"]
    replies = tokenizer(answers, add_special_tokens=False)["input_ids"]
    parts = zip(texts, questions, replies, strict=True)
    return shared, [_Tokens(text, question + reply, len(question)) for text, question, reply in parts]


def _packed(tokens: Sequence[_Tokens]) -> list[list[_Tokens]]:
    """The texts in rows of one image and ROW_TOKENS at most: the longest first, each where it first fits."""
    rows: dict[int, list[list[_Tokens]]] = {}
    for part in sorted(tokens, key=lambda part: -len(part.ids)):
        mine = rows.setdefault(part.text.image, [])
        fitting = (row for row in mine if sum(len(p.ids) for p in row) + len(part.ids) <= ROW_TOKENS)
        row = next(fitting, None)
        if row is None:
            mine.append([part])
        else:
            row.append(part)
    return [row for _, mine in sorted(rows.items()) for row in mine]


def _tensors(
    rows: Sequence[Sequence[_Tokens]], prefix: list[int], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (rows, tokens), padded on the right; branches: 0 shared, 1.. a text each, -1 padding."""
    width = len(prefix) + max(sum(len(part.ids) for part in row) for row in rows)
    ids, branches = torch.full((len(rows), width), pad), torch.full((len(rows), width), -1)
    for index, row in enumerate(rows):
        line = prefix + [token for part in row for token in part.ids]
        ids[index, : len(line)] = torch.tensor(line)
        of = [0] * len(prefix) + [branch for branch, part in enumerate(row, start=1) for _ in part.ids]
        branches[index, : len(line)] = torch.tensor(of)
    return ids.to(device), branches.to(device)
