"""The second phase of the VLM's recipe: its language model learns to say what the vision tower sees.

The tower stays as perception left it, so that each image is read once for several texts and without a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from rsqa_pipeline.models.conversation import render
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.records import Message
from rsqa_pipeline.tiny_models.perception import vlm_tower

CHECK_PROMPT = "is this right?"
"""Asks whether the answer just given fits the image: image-text matching, which general VLMs are trained on too."""
_IGNORED = -100


@dataclass(frozen=True)
class Answered:
    """A question about an image and the answer to learn. A caption answers CAPTION_PROMPT."""

    image: int
    """Row of the batch's images."""
    question: str
    answer: str
    said: str | None = None
    """An answer given to the question before; ``answer`` then says whether it is right, to CHECK_PROMPT."""

    @property
    def prompt(self) -> list[Message]:
        asked = [Message(role="user", content=self.question)]
        if self.said is None:
            return asked
        return [*asked, Message(role="assistant", content=self.said), Message(role="user", content=CHECK_PROMPT)]


def language_loss(
    model: Any, processor: QwenVLProcessor, images: np.ndarray, texts: Sequence[Answered]
) -> torch.Tensor:
    """Mean over the texts of each answer's mean cross-entropy a token, its end mark among them.

    A one-word answer weighs as much as a caption; a mean over all tokens would teach captions only. For each text the
    same number as the model's own loss (a test compares them); faster, as each of the images, uint8 (b, h, w, 3) of
    the model's size, goes through the tower once and only answers reach the last layer.
    """
    device = model.device
    with torch.no_grad():
        seen = vlm_tower(model)(images)
    ids, labels = _tokens(processor, texts, seen.shape[1])
    ids, labels = ids.to(device), labels.to(device)
    embeddings = model.get_input_embeddings()(ids)
    place = (ids == processor.image_token_id).unsqueeze(-1)
    rows = torch.tensor([text.image for text in texts], device=device)
    embeddings = embeddings.masked_scatter(place, seen[rows].to(embeddings.dtype))
    # The image stands at the same place in every row and padding only follows, so one row's positions serve all
    side = round((seen.shape[1]) ** 0.5) * processor.image_processor.merge_size
    positions, _ = model.model.get_rope_index(
        ids[:1], place[:1, :, 0].int(), image_grid_thw=torch.tensor([[1, side, side]], device=device)
    )
    hidden = model.model.language_model(
        inputs_embeds=embeddings, position_ids=positions.expand(-1, len(ids), -1)
    ).last_hidden_state
    told = labels[:, 1:] != _IGNORED
    logits = model.lm_head(hidden[:, :-1][told])
    weights = (told / told.sum(dim=1, keepdim=True))[told] / len(texts)
    return (F.cross_entropy(logits.float(), labels[:, 1:][told], reduction="none") * weights).sum()


def _tokens(
    processor: QwenVLProcessor, texts: Sequence[Answered], image_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (b, t) padded on the right, and labels (b, t) that are _IGNORED outside the answers."""
    tokenizer, mark = processor.tokenizer, processor.image_token
    prompts = [render(processor, text.prompt, True, add_generation_prompt=True) for text in texts]
    prompts = [prompt.replace(mark, mark * image_tokens) for prompt in prompts]
    asked = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = [text.answer + tokenizer.eos_token for text in texts]
    told = tokenizer(answers, add_special_tokens=False)["input_ids"]
    width = max(len(a) + len(t) for a, t in zip(asked, told, strict=True))
    ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    labels = torch.full((len(texts), width), _IGNORED)
    for row, (question, answer) in enumerate(zip(asked, told, strict=True)):
        end = len(question) + len(answer)
        ids[row, :end] = torch.tensor(question + answer)
        labels[row, len(question) : end] = torch.tensor(answer)
    return ids, labels
