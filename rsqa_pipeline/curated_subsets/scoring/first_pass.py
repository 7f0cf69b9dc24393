"""Record of a first pass: what it runs, which predictions it drops, and what that saves.

A first pass drops rows that cannot be among the best share of a corpus, so that only the others are scored in full. A
ridge regression predicts scores from the states of a score model's first layers (`fit_first_pass`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rsqa_pipeline.errors import DataError

Floats = npt.NDArray[np.floating[Any]]

CANNOT_BE_KEPT = "cannot_be_kept"
"""Reason in the quarantine table of a row that the first pass dropped; it has no score."""


@dataclass(frozen=True)
class Bound:
    """Predicts the scores of one kind, and the least prediction that is not dropped."""

    weights: list[float]
    intercept: float
    cut: float | None
    """None if the sample is too small for a bound: nothing is dropped."""

    def predict(self, states: Floats) -> Floats:
        """Predicted scores, (rows,), of states (rows, hidden)."""
        return np.asarray(states @ np.array(self.weights) + self.intercept, dtype=float)


@dataclass(frozen=True)
class FirstPass:
    """A fitted first pass."""

    model_version: str
    keep: float
    """Share of the best rows of each kind that must not be dropped."""
    sample: str
    """Hash of the rows that it was fitted on."""
    layers: int
    """Number of first language layers that it runs."""
    image_share: float
    """Share of each image's tokens that it runs."""
    sample_share: float
    """Share of the rows that are scored in full to fit it."""
    cost: float
    """Work of the first pass as a share of scoring all rows in full."""
    remaining: float
    """Expected share of the rows that it leaves to be scored in full."""
    bounds: Mapping[Literal["caption", "instruction"], Bound]

    @property
    def work(self) -> float:
        """Expected work in all, as a share of scoring all rows in full."""
        return self.sample_share + self.cost + self.remaining

    def write(self, path: Path) -> None:
        scratch = path.with_name(f"{path.name}.scratch")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)

    @classmethod
    def read(cls, path: Path) -> FirstPass:
        """Raises DataError if the file is not one that `write` made."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            bounds = {kind: Bound(**values) for kind, values in found.pop("bounds").items()}
            return cls(**found, bounds=bounds)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path} is not the record of a first pass: {error}; delete it and run `rsqa score --adaptive` again"
            ) from error


def first_pass_path(out: Path) -> Path:
    """The record of a table's first pass, next to the table."""
    return out.with_name(f"{out.stem}.first_pass.json")
