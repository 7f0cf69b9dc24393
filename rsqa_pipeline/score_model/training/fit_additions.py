"""Fits what the profile adds to a trained score model: bootstrap heads and slopes for the length of the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.additions import KINDS, Additions, Kind
from rsqa_pipeline.score_model.length_correction import graded_texts, length_slope
from rsqa_pipeline.score_model.pairs import Pair, score_pairs_in_full
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training.bootstrap_heads import fit_heads, state_differences
from rsqa_pipeline.score_model.training.pair_batches import PairBatches

MAX_LENGTH_PAIRS = 16_384
"""Training pairs whose texts are scored to fit the slopes."""


def fit_additions(
    scorer: Scorer, data: PairBatches, train: Sequence[Pair], batch_size: int, settings: Profile
) -> Additions:
    """The additions that the profile asks for, fitted on training pairs alone; the model is not changed."""
    config, model = settings.score_model, scorer.model
    heads = None
    if config.bootstrap_heads:
        model.eval()
        differences, images = state_differences(model, data, batch_size)
        start = model.head.weight.detach()[0].double().cpu().numpy()
        fitted = fit_heads(differences, images, start, config.bootstrap_heads, settings.seed)
        heads = torch.from_numpy(fitted).float()
    slopes = length_slopes(scorer, train, settings.seed) if config.length_debias else {}
    return Additions(heads, slopes)


def length_slopes(scorer: Scorer, train: Sequence[Pair], seed: int) -> dict[Kind, float]:
    """Slope of each kind of text; 0 for a kind without texts of equal quality and different length."""
    order = np.random.default_rng(seed).permutation(len(train))[:MAX_LENGTH_PAIRS]
    drawn = [train[index] for index in sorted(order.tolist()) if train[index]["image"] is not None]
    texts = graded_texts(drawn, score_pairs_in_full(scorer, drawn))
    return {kind: length_slope([text for text in texts if text.kind == kind]) for kind in KINDS}
