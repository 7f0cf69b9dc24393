"""An ensemble of linear heads on the frozen backbone: how far would the score move with other training pairs?

Each head is fitted to a bootstrap resample of the images of the training pairs, with the Bradley-Terry loss and a
penalty on its distance to the trained head (as in anchored ensembles, Pearce et al., 2020). The loss is convex, so a
few Newton steps reach its minimum. The heads show the doubt that a finite number of pairs leaves about the head, not
the doubt about the backbone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.training.pair_batches import PairBatches

Floats = npt.NDArray[np.float64]

MAX_RANKINGS = 16_384
"""Rankings whose states are computed: one pass without gradients. With fewer than all, spreads are larger."""
PENALTY = 1e-3
"""Weight of the squared distance to the trained head, in units of the mean squared difference of two states. On the
demo, held-out likelihood is better than the trained head's for values from 1e-4 to 1e-1."""
MAX_STEPS = 50
TOLERANCE = 1e-8


@torch.inference_mode()
def state_differences(model: ScoreModel, data: PairBatches, batch_size: int) -> tuple[Floats, list[Hashable]]:
    """State of the better text minus that of the next one, (differences, hidden), and the image of each difference.

    Args:
        batch_size: rankings per pass; one that the training could afford fits.
    """
    chosen = list(dict.fromkeys(data.order))[:MAX_RANKINGS]
    differences: list[torch.Tensor] = []
    images: list[Hashable] = []
    for start in range(0, len(chosen), batch_size):
        rankings = [data.rankings[index] for index in chosen[start : start + batch_size]]
        batch = data.collate(rankings)
        ranked, counts = batch.pop("ranked"), batch.pop("counts")
        del batch["mark_gaps"]
        device = model.head.weight.device
        pooled = model.pooled(**{name: tensor.to(device) for name, tensor in batch.items()}).double().cpu()
        for index, (ranking, order, count) in enumerate(zip(rankings, ranked, counts.tolist(), strict=True)):
            states = pooled[order[:count]]
            differences.append(states[:-1] - states[1:])
            image = ranking.rows[0].image
            images += [(start, index) if image is None else image] * (count - 1)
    return torch.cat(differences).numpy(), images


def fit_heads(differences: Floats, images: Sequence[Hashable], start: Floats, heads: int, seed: int) -> Floats:
    """Weights of ``heads`` heads, (heads, hidden), each fitted to a resample of the images.

    Args:
        differences: (n, hidden), as from `state_differences`.
        images: of each difference; those of one image are drawn together.
        start: (hidden,) weights of the trained head.
    """
    numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
    of_difference = np.array([numbers[image] for image in images])
    rng = np.random.default_rng(seed)
    fitted = []
    for _ in range(heads):
        drawn = np.bincount(rng.integers(0, len(numbers), len(numbers)), minlength=len(numbers))
        fitted.append(fit_head(differences, drawn[of_difference].astype(np.float64), start))
    return np.stack(fitted)


def fit_head(differences: Floats, weights: Floats, start: Floats) -> Floats:
    """(hidden,) weights w that minimize the weighted mean of log(1 + exp(-d @ w)) plus half the penalty.

    Args:
        weights: (n,) times that each difference counts; their sum is above 0.
    """
    scale = PENALTY * max(float((differences**2).mean()), TOLERANCE)
    share = weights / weights.sum()
    ridge = scale * np.eye(len(start))
    head = start.astype(np.float64)
    for _ in range(MAX_STEPS):
        missed = 0.5 * (1.0 - np.tanh(0.5 * (differences @ head)))  # 1 - P(the better text wins)
        gradient = scale * (head - start) - differences.T @ (share * missed)
        curvature = (differences.T * (share * missed * (1.0 - missed))) @ differences + ridge
        step = np.linalg.solve(curvature, gradient)
        head = head - step
        if np.abs(step).max() < TOLERANCE:
            break
    return head
