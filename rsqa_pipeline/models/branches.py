"""Several texts about one image in one sequence, in which the image and the other shared tokens appear only once.

Each text is a *branch* after the shared tokens. Attention mask and position ids let it see only the shared tokens and
itself, at the positions it would have alone. For a causal model, the result is the same as with separate sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def tree_mask(attention_mask: Tensor, branches: Tensor) -> dict[str, Tensor]:
    """Attention mask (rows, 1, tokens, tokens), bool: a token sees earlier tokens that are shared or in its branch.

    A padding token sees itself, since a softmax over an empty set is NaN.

    Args:
        attention_mask: (rows, tokens), 1 for real tokens.
        branches: (rows, tokens), 0 for shared tokens, 1.. for the tokens of each branch, which are contiguous.
    """
    tokens = branches.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=branches.device).tril()
    same_branch = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    visible = causal & same_branch & attention_mask[:, None, :].bool()
    diagonal = torch.eye(tokens, dtype=torch.bool, device=branches.device)
    return {"full_attention": (visible | diagonal)[:, None]}


def branch_positions(positions: Tensor, shared: Tensor, branches: Tensor) -> Tensor:
    """Rotary positions (3, rows, tokens) in which every branch continues from the shared tokens.

    Args:
        positions: (3, rows, tokens), used for the shared tokens; other values are ignored.
        shared: (rows, tokens), 1 for real shared tokens.
        branches: see `tree_mask`.
    """
    indices = torch.arange(branches.shape[1], device=branches.device)
    starts = F.pad(branches[:, 1:] != branches[:, :-1], (1, 0)) * indices
    within = indices - starts.cummax(dim=1).values
    continued = (positions * shared).amax(dim=(0, 2))[:, None] + 1 + within
    return torch.where(branches > 0, continued, positions)
