"""A score model for tests of scoring: the shipped VLM with a random head."""

from __future__ import annotations

from pathlib import Path

import torch

from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS


def save_random_model(folder: Path) -> None:
    """Writes the model, with a context of 160 tokens, and its processor."""
    model = ScoreModel.from_base(str(CHECKPOINTS / "vlm"))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    processor = load_processor(CHECKPOINTS / "vlm")
    processor.tokenizer.model_max_length = 160
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
