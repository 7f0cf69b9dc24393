"""Losses over scores: Bradley-Terry for pairs, Plackett-Luce for ranked lists (paper, score model)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Mean of -log P(chosen > rejected), with P = sigmoid(chosen - rejected - margin).

    `logsigmoid` keeps it finite for gaps of any size, where log(sigmoid(x)) would underflow.

    Args:
        chosen: scores of the preferred texts, (pairs,), unbounded.
        rejected: scores of the other texts, (pairs,).
        margin: lead of the chosen score at which the loss is log 2, (pairs,), 0 or more. The paper has none; a margin
            that grows with the difference of the judge's marks demands a larger lead in clear cases (Llama 2, section
            3.2.2).

    Returns:
        Scalar >= 0; log 2 where all scores tie and the margin is 0.
    """
    return -F.logsigmoid(chosen - rejected - margin).mean()


def plackett_luce(ranked: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean over lists of -log P(ranking), each next-best drawn from those left: sum_k lse(s_k..s_n) - s_k.

    With two candidates it equals `bradley_terry`. Sums run over log-sum-exp, never over exp.

    Args:
        ranked: scores, best first, (lists, candidates), unbounded.
        counts: how many leading candidates of each list are real, (lists,), 2 or more; all of them by
            default.

    Returns:
        Scalar >= 0.
    """
    candidates = ranked.shape[1]
    positions = torch.arange(candidates, device=ranked.device)
    real = positions < counts[:, None] if counts is not None else torch.ones_like(ranked, dtype=torch.bool)
    scores = ranked.masked_fill(~real, -torch.inf)
    # The tail's log-sum-exp at position k covers k..n, so the sum accumulates from the right.
    tails = torch.logcumsumexp(scores.flip(1), dim=1).flip(1)
    terms = torch.where(real, tails, 0.0) - torch.where(real, ranked, 0.0)
    return terms.sum(dim=1).mean()


def ranking_loss(scores: Tensor, ranked: Tensor, counts: Tensor, margins: Tensor | float = 0.0) -> Tensor:
    """Mean loss of rankings of any length: Bradley-Terry where all are pairs, else Plackett-Luce.

    Args:
        scores: of a batch's texts, (texts,).
        ranked: indices of each ranking's texts, best first, (rankings, longest).
        counts: texts in each ranking, (rankings,).
        margins: see `bradley_terry`; not used for lists.
    """
    if ranked.shape[1] == 2:
        return bradley_terry(scores[ranked[:, 0]], scores[ranked[:, 1]], margins)
    return plackett_luce(scores[ranked], counts)
