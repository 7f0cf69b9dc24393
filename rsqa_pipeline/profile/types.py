"""Base types of all sections of the profile."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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
    weight_decay: NonNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
