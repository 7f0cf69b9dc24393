"""Base types of all sections of the profile."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
LearningRate = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A part of the profile. Unknown keys, NaN and infinity are refused; values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sampling(Section):
    temperature: Annotated[float, Field(gt=0)]
    top_p: Fraction
    max_new_tokens: Count


class Optimizer(Section):
    """One training run: AdamW, cosine schedule (paper, training details)."""

    learning_rate: LearningRate
    batch_size: Count
    gradient_accumulation: Count = 1
    epochs: Annotated[float, Field(gt=0)] = 1
    steps: Count | None = None
    """Number of optimizer steps, in place of ``epochs``: subsets of different sizes then train equally long."""
    weight_decay: NonNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> Optimizer:
        if {"epochs", "steps"} <= self.model_fields_set and self.steps is not None:
            raise ValueError(f"needs epochs or steps, not both; found epochs {self.epochs:g} and steps {self.steps}")
        return self

    def total_steps(self, batches: int) -> int:
        """Optimizer steps of a run over data that make ``batches`` batches per epoch."""
        return self.steps or max(1, math.ceil(batches / self.gradient_accumulation * self.epochs))
