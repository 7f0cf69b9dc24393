"""The profile's section ``score_model``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, Fraction, NonNegative, Optimizer, Section


class Lora(Section):
    """Low-rank adapters in place of full weights; merged into them at the end."""

    rank: Count
    alpha: Count


class ScoreModelPhase(Optimizer):
    """One phase. ``batch_size`` counts pairs (ranked lists with plackett_luce) over all processes together."""

    train: list[Literal["head", "vision", "language"]] = Field(min_length=1)
    loss: Literal["bradley_terry", "plackett_luce"] = "bradley_terry"
    """plackett_luce learns from whole ranked lists where pairs share their chosen text and have judge's marks."""
    margin: NonNegative = 0.0
    """Lead asked of the chosen score, a point of difference between the judge's marks; bradley_terry only."""
    min_gap: NonNegative = 0.0
    """Difference between the judge's marks from which a pair is learned from. Below it noise decides which text is the
    chosen one; such pairs are quarantined, held-out ones are measured all the same. Pairs without marks stay."""
    keep: Literal["last", "best"] = "last"
    """Which weights: after the last step, or where held-out accuracy, measured a few times, was best."""
    lora: Lora | None = None
    """Trains adapters in the named parts' linear layers instead of the parts; the head is always trained whole."""

    @model_validator(mode="after")
    def _margin_needs_pairs(self) -> ScoreModelPhase:
        if self.margin and self.loss == "plackett_luce":
            raise ValueError("margin needs loss: bradley_terry; ranked lists have no margin")
        return self


class LastPhase(ScoreModelPhase):
    """The phase whose model scores."""

    pairs: list[Literal["text", "caption", "instruction"]] = Field(default=["instruction", "caption"], min_length=1)
    """Kinds of pairs that it learns from."""


class ScoreModelPhases(Section):
    """The three phases, named by what they learn from (paper, score model training).

    None leaves a phase out: the next one starts from where it would have. With both others left out and all kinds of
    ``pairs``, the last one is joint training (paper, ablations).
    """

    text: ScoreModelPhase | None
    caption: ScoreModelPhase | None
    instruction: LastPhase | None

    @model_validator(mode="after")
    def _something_trains(self) -> ScoreModelPhases:
        if not any((self.text, self.caption, self.instruction)):
            raise ValueError("all three phases are left out; at least one must train")
        return self


class ScoreModelSettings(Section):
    activation: Literal["none", "softplus"] = "none"
    max_length: Count
    tokens_per_pass: Count | None = None
    """Text and image tokens that go through the model at once in a process, padding aside; a step is cut into as many
    passes as that takes. By default a pass is ``batch_size`` pairs, shared out over the processes."""
    gradient_checkpointing: bool = False
    """Computes activations twice instead of keeping them: less memory, about a third more time."""
    fsdp: bool = False
    """Splits weights, gradients and optimizer state over the processes of ``compute.launch``."""
    state_steps: Count = 200
    """Optimizer steps between two states that a killed training can go on from."""
    phases: ScoreModelPhases
    promotion_margin: Fraction = 0.02
    """Accuracy that a new score model may lose on a family of pairs and still become champion (``rsqa promote``)."""
