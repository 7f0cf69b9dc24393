"""What can be fitted to a trained score model without changing its weights: bootstrap heads and a length correction.

Both are stored beside the weights in ``additions.safetensors``. The file is part of the model's version, since spread
and corrected scores depend on it. A folder without it scores as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.model_folder import reading

FILE = "additions.safetensors"
HEADS, SLOPES = "bootstrap_heads", "length_slopes"

Kind = Literal["caption", "instruction"]
"""A text alone, or an answer to a context."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(context: Sequence[Any]) -> Kind:
    """The kind of a text by the turns before it."""
    return "instruction" if len(context) else "caption"


def length_term(tokens: int) -> float:
    """The length of a text as the correction sees it: log(1 + tokens)."""
    return math.log1p(tokens)


@dataclass(frozen=True)
class Additions:
    """Additions to a score model; by default none."""

    heads: Tensor | None = None
    """(heads, hidden), float32: weights of linear heads like the model's own."""
    length_slopes: Mapping[Kind, float] = field(default_factory=dict)
    """Score per unit of `length_term`, by kind: subtracted from every score. Empty: no correction."""

    def length_correction(self, kind: Kind | None, tokens: int) -> float:
        """What is subtracted from the score of a text of this kind and number of tokens."""
        if not self.length_slopes:
            return 0.0
        if kind is None:
            raise ValueError("a score can be corrected for length only if the kind of the text is known")
        return self.length_slopes[kind] * length_term(tokens)

    def write(self, folder: Path) -> None:
        """Writes ``additions.safetensors`` into a model's folder, or nothing if there is nothing to write."""
        tensors = {}
        if self.heads is not None:
            tensors[HEADS] = self.heads.detach().float().cpu().contiguous()
        if self.length_slopes:
            tensors[SLOPES] = torch.tensor([self.length_slopes[kind] for kind in KINDS], dtype=torch.float32)
        if tensors:
            save_file(tensors, folder / FILE)

    @classmethod
    def read(cls, folder: Path, hidden: int) -> Additions:
        """The additions in a model's folder; none without the file.

        Args:
            hidden: size of the model's hidden states.

        Raises:
            ModelError: the file cannot be read, has other tensors or other shapes, or values that are not finite.
        """
        file = folder / FILE
        if not file.is_file():
            return cls()
        with reading(file, "is not a readable safetensors file"):
            tensors = load_file(file)
        heads, slopes = tensors.pop(HEADS, None), tensors.pop(SLOPES, None)
        if tensors:
            raise ModelError(f"{file} holds unknown tensors: {', '.join(sorted(tensors))}; known are {HEADS}, {SLOPES}")
        if heads is not None and (heads.ndim != 2 or len(heads) < 2 or heads.shape[1] != hidden):
            raise ModelError(f"{file}: {HEADS} has shape {list(heads.shape)}, needs [2 or more, {hidden}]")
        if slopes is not None and slopes.shape != (len(KINDS),):
            raise ModelError(f"{file}: {SLOPES} has shape {list(slopes.shape)}, needs [{len(KINDS)}]")
        if any(not tensor.isfinite().all() for tensor in (heads, slopes) if tensor is not None):
            raise ModelError(f"{file} holds values that are not finite numbers")
        by_kind = dict(zip(KINDS, slopes.tolist(), strict=True)) if slopes is not None else {}
        return cls(heads, by_kind)
