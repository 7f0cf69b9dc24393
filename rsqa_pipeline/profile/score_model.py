"""The profile's section ``score_model``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, Fraction, NonNegative, Optimizer, Section


class Lora(Section):
    """Trains low-rank adapters instead of full weights; they are merged into the weights at the end."""

    rank: Count
    alpha: Count


class ScoreModelPhase(Optimizer):
    """One training phase. ``batch_size`` counts pairs (ranked lists with plackett_luce) over all processes."""

    train: list[Literal["head", "vision", "language"]] = Field(min_length=1)
    loss: Literal["bradley_terry", "plackett_luce"] = "bradley_terry"
    """plackett_luce learns from full ranked lists if pairs share their chosen text and have the judge's marks."""
    margin: NonNegative = 0.0
    """Required lead of the chosen score per point of difference between the judge's marks; bradley_terry only."""
    min_gap: NonNegative = 0.0
    """Minimum difference between the judge's marks for training on a pair. Below it, noise decides which text is the
    chosen one: training pairs are quarantined, held-out pairs are still evaluated. Pairs without marks are kept."""
    keep: Literal["last", "best"] = "last"
    """Weights to keep: after the last step, or at the best held-out accuracy, which is measured a few times."""
    lora: Lora | None = None
    """Trains adapters in the linear layers of the named parts instead of the parts; the head is always trained
    fully."""

    @model_validator(mode="after")
    def _margin_needs_pairs(self) -> ScoreModelPhase:
        if self.margin and self.loss == "plackett_luce":
            raise ValueError("margin needs loss: bradley_terry; ranked lists have no margin")
        return self


class LastPhase(ScoreModelPhase):
    """The last phase; its model is the one that scores."""

    pairs: list[Literal["text", "caption", "instruction"]] = Field(default=["instruction", "caption"], min_length=1)
    """Kinds of pairs to train on."""


class ScoreModelPhases(Section):
    """The three phases, named by their training pairs (paper, score model training).

    None skips a phase: the next phase starts from the weights that the skipped one would have started from. The last
    phase with both others skipped and all kinds of ``pairs`` is joint training (paper, ablations).
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
    """Tokens per text, its image included; a larger image than half of them is made smaller."""
    tokens_per_pass: Count | None = None
    """Text and image tokens per pass of one process, without padding; a step is split into as many passes as needed.
    By default a pass is ``batch_size`` pairs, divided over the processes."""
    gradient_checkpointing: bool = False
    """Recomputes activations instead of keeping them: less memory, about a third more time."""
    fsdp: bool = False
    """Splits weights, gradients and optimizer state over the processes of ``compute.launch``."""
    state_steps: Count = 200
    """Optimizer steps between saved states, from which a killed training is resumed."""
    bootstrap_heads: Annotated[int, Field(ge=0)] = 0
    """Heads fitted after the last phase, each on a bootstrap resample of the training pairs. The spread of their scores
    is stored with every score. 0: no heads and no spread; the scores are the same."""
    length_debias: bool = False
    """Corrects scores for the length of the text, by a slope per kind of text that is fitted after the last phase."""
    phases: ScoreModelPhases
    promotion_margin: Fraction = 0.02
    """Accuracy that a new score model may lose on a family of pairs and still become champion (``rsqa promote``)."""

    @model_validator(mode="after")
    def _additions_fit(self) -> ScoreModelSettings:
        if self.bootstrap_heads == 1:
            raise ValueError("bootstrap_heads is 1, and one head has no spread; use 0 or at least 2")
        if self.length_debias and self.activation == "softplus":
            raise ValueError("length_debias needs activation: none; a corrected score can be below 0")
        if (self.bootstrap_heads or self.length_debias) and self.phases.instruction is None:
            raise ValueError("bootstrap_heads and length_debias are fitted in the phase instruction, which is left out")
        return self
