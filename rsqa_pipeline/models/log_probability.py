"""Mean log-probability of given answers under a VLM: how sure the model is of each, token by token.

The answers are read, not generated again (teacher forcing). Image and prompt are run once per group; its answers
continue from there together. The distribution is the model's own, at temperature 1 and with no token suppressed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.conversation import encode, escape_control_tokens
from rsqa_pipeline.models.families import chat_form_of
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.models.prompt_length import MAX_PROMPT_TOKENS
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup


def mean_log_probabilities(vlm: Vlm, groups: Sequence[ScoringGroup], batch_size: int) -> list[list[Score]]:
    """Mean log-probability (nats per token, at most 0) of every candidate given its image and context.

    The mean is over the candidate's tokens and the end of its turn: an empty answer has one, too. Texts are tokenized
    again, so equal texts have one value, however their tokens were drawn; a text that was cut while it was generated is
    rated as if it ended there. `Score.tokens` counts the tokens that the mean is over.

    Args:
        groups: each has an image; its context ends with a user turn.
        batch_size: candidates per batch; a group is never split.

    Raises:
        ImageFault: an image cannot be opened.
        ValueError: a prompt exceeds MAX_PROMPT_TOKENS.
    """
    scores: list[list[Score]] = [[] for _ in groups]
    batches = _batches(groups, batch_size)
    for batch in tqdm(batches, desc="log-probabilities", unit="batch", disable=len(batches) < 4, leave=False):
        found = iter(_score_batch(vlm, [groups[index] for index in batch]))
        for index in batch:
            scores[index] = [next(found) for _ in groups[index].candidates]
    return scores


def answer_tokens(processor: ProcessorMixin, text: str) -> list[int]:
    """Token ids of an answer as a model's turn, the end of the turn included."""
    tokenizer, form = processor.tokenizer, chat_form_of(processor)
    written = form.before_answer + escape_control_tokens(processor, text)
    ids: list[int] = tokenizer(written, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.convert_tokens_to_ids(form.end_token(tokenizer))]


def _batches(groups: Sequence[ScoringGroup], batch_size: int) -> list[list[int]]:
    """Positions of the groups with candidates; prompts of similar length share a batch."""
    lengths = [sum(len(turn["content"]) for turn in group.context) for group in groups]
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(groups)), key=lambda index: (lengths[index], index)):
        size = len(groups[index].candidates)
        if not size:
            continue
        if size > room:
            batches.append([])
            room = batch_size
        batches[-1].append(index)
        room -= size
    return batches


@torch.inference_mode()
def _score_batch(vlm: Vlm, groups: Sequence[ScoringGroup]) -> list[Score]:
    """Scores of all candidates of the groups, in their order."""
    images = [open_image(group.image) if isinstance(group.image, str) else group.image for group in groups]
    contexts = [group.context for group in groups]
    prompts = encode(vlm.processor, contexts, images, MAX_PROMPT_TOKENS, add_generation_prompt=True)
    rows = [answer_tokens(vlm.processor, text) for group in groups for text in group.candidates]
    owners = torch.tensor([place for place, group in enumerate(groups) for _ in group.candidates])
    hidden = _answer_states(vlm, prompts, rows, owners)
    head = vlm.model.get_output_embeddings()
    scores = []
    for ids, states in zip(rows, hidden, strict=True):  # the logits of one answer at a time: a vocabulary is wide
        logits = head(states[: len(ids)]).float().log_softmax(dim=-1)
        chosen = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])
        scores.append(_score(float(chosen.mean()), len(ids)))
    return scores


def _answer_states(vlm: Vlm, prompts: dict[str, Tensor], rows: Sequence[Sequence[int]], owners: Tensor) -> Tensor:
    """(answers, longest answer, width) states that predict each answer's tokens.

    Args:
        prompts: left-padded, as `encode` makes them for generation.
        owners: (answers,) row of each answer's prompt.
    """
    device, inner = vlm.model.device, vlm.model.model
    prompts, owners = {name: tensor.to(device) for name, tensor in prompts.items()}, owners.to(device)
    positions = _positions(vlm, prompts)
    read = inner(**prompts, position_ids=_as_argument(positions), use_cache=True)
    first = read.last_hidden_state[owners, -1:]
    longest = max(len(ids) for ids in rows)
    if longest == 1:
        return first
    # the last token of an answer predicts nothing that is rated
    ids = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row) - 1] = torch.tensor(row[:-1], dtype=torch.int64)
        mask[index, : len(row) - 1] = 1
    cache = read.past_key_values
    cache.batch_select_indices(owners)
    starts = positions.amax(dim=(0, 2))[owners, None] + 1
    continued = inner(
        input_ids=ids.to(device),
        attention_mask=torch.cat([prompts["attention_mask"][owners], mask.to(device)], dim=1),
        position_ids=_as_argument((starts + torch.arange(longest - 1, device=device)).expand(len(positions), -1, -1)),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([first, continued.last_hidden_state], dim=1)


def _positions(vlm: Vlm, prompts: dict[str, Tensor]) -> Tensor:
    """(axes, rows, tokens): over time, height and width for a family whose images have a grid, else one axis."""
    mask = prompts["attention_mask"]
    if not chat_form_of(vlm.processor).grid:
        return (mask.cumsum(dim=1) - 1).clamp(min=0)[None]
    positions: Tensor
    positions, _ = vlm.model.model.get_rope_index(
        prompts["input_ids"],
        mm_token_type_ids=prompts["mm_token_type_ids"],
        image_grid_thw=prompts.get("image_grid_thw"),
        attention_mask=mask,
    )
    return positions


def _as_argument(positions: Tensor) -> Tensor:
    """As the model takes them: a single axis is left out."""
    return positions if len(positions) > 1 else positions[0]


def _score(value: float, tokens: int) -> Score:
    if not math.isfinite(value):
        return Score(None, "not_finite", f"the mean log-probability is {value}", tokens=tokens)
    return Score(value, tokens=tokens)
