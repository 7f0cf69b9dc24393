"""Several texts about one image in one sequence: what they share stands in it once, and so does the image.

Each text is a *branch* behind the shared tokens. It sees them and itself, at the positions that it would have alone, so
that a causal model computes for it what it would compute for the text in a sequence of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def tree_mask(attention_mask: Tensor, branches: Tensor) -> dict[str, Tensor]:
    """Who sees whom, (rows, 1, tokens, tokens) bool: earlier tokens that are shared or of the same branch.

    A padding token sees itself, since a softmax over nothing is not a number.

    Args:
        attention_mask: (rows, tokens), 1 for real tokens.
        branches: (rows, tokens), 0 for shared tokens, 1.. for the tokens of each branch, which stand together.
    """
    tokens = branches.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=branches.device).tril()
    kin = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    seen = earlier & kin & attention_mask[:, None, :].bool()
    itself = torch.eye(tokens, dtype=torch.bool, device=branches.device)
    return {"full_attention": (seen | itself)[:, None]}


def branch_positions(positions: Tensor, shared: Tensor, branches: Tensor) -> Tensor:
    """Rotary positions (3, rows, tokens) in which every branch goes on from the shared tokens.

    Args:
        positions: of the shared tokens, (3, rows, tokens); what it holds elsewhere does not matter.
        shared: (rows, tokens), 1 for real shared tokens.
        branches: see `tree_mask`.
    """
    places = torch.arange(branches.shape[1], device=branches.device)
    begins = F.pad(branches[:, 1:] != branches[:, :-1], (1, 0)) * places
    within = places - begins.cummax(dim=1).values
    following = (positions * shared).amax(dim=(0, 2))[:, None] + 1 + within
    return torch.where(branches > 0, following, positions)
