"""The reasoning model (paper, use 2, "R1"): the fine-tuned VLM after supervised training on reasoning answers.

Every policy starts from it and is trained on the prompts that it selects. Without reasoning samples it is the
fine-tuned VLM itself ("Zero").

Departure from the paper: the reasoning text is a fixed text per task, not written by a larger model; the answers come
from the corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from rsqa_pipeline.finetuned_models.finetune_vlm import save_vlm, train_supervised
from rsqa_pipeline.finetuned_models.training import SftExample, StepMetrics, TrainingRun, write_history
from rsqa_pipeline.models.families import family_of
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics, read_table
from rsqa_pipeline.rl_policy.prompts import select_prompts
from rsqa_pipeline.rl_policy.reasoning import reasoned_answer, reasoning_prompt
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, start_from: str) -> Metrics:
    """Asset ``reasoning_model``: model/, prompts.parquet (PROMPT_TABLE), history.json.

    Args:
        inputs: the fine-tuned VLM ``start_from``, ``instruction_samples``, ``score_model``.
        start_from: input whose first seed's model is trained.

    Raises:
        DataError: too few instruction samples for prompts and held-out prompts.
        ModelError: a model cannot be loaded, or training diverges.
    """
    config = settings.rl_policy
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    samples = read_table(inputs["instruction_samples"] / "samples.parquet")
    selected = select_prompts(samples, scorer, config, settings.seed)
    vlm = load_vlm(inputs[start_from] / "model", settings.compute)
    history: list[StepMetrics] = []
    if selected.reasoning:
        train_language_only(vlm)
        examples = [
            SftExample(s.image, reasoning_prompt(s.context), reasoned_answer(s.task, s.reference))
            for s in selected.reasoning
        ]
        with tempfile.TemporaryDirectory() as scratch:
            training_run = TrainingRun(settings.seed, settings.compute, Path(scratch), logger)
            history = train_supervised(
                vlm.model, vlm.processor, examples, config.reasoning, None, training_run, "reasoning"
            )
    save_vlm(vlm, out / "model")
    selected.write(out / "prompts.parquet")
    write_history(history, out / "history.json")
    logger.log_model("reasoning_model", out / "model")
    return {
        "reasoning_samples": float(len(selected.reasoning)),
        "prompts": float(len(selected.prompts)),
        "heldout_prompts": float(len(selected.heldout)),
        "unusable_samples": float(selected.dropped.total()),
    }


def train_language_only(vlm: Vlm) -> None:
    """Freezes the vision tower and the connector; everything else is trained."""
    vlm.model.requires_grad_(True)
    for module in family_of(vlm.model).vision_of(vlm.model):
        module.requires_grad_(False)
