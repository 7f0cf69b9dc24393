"""The reasoning model (paper, use 2, "R1"): the fine-tuned VLM after supervised training on reasoning answers.

Every policy starts from it and is trained on the prompts that it selects. Captions of the subset are mixed in, so that
it still describes images. Without reasoning samples it is the fine-tuned VLM itself ("Zero").

Departure from the paper: the reasoning text is a fixed text per task, not written by a larger model; the answers come
from the corpus.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rsqa_pipeline.finetuned_models.checkpoints import keyed_folder
from rsqa_pipeline.finetuned_models.finetune_vlm import as_sft_examples, replay, save_vlm, train_supervised
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import SftExample, StepMetrics, TrainingRun, write_history
from rsqa_pipeline.models.families import family_of
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics, read_table
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt, select_prompts
from rsqa_pipeline.rl_policy.reasoning import reasoned_answer, reasoning_prompt
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(
    inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, start_from: str, subset: str
) -> Metrics:
    """Asset ``reasoning_model``: model/, prompts.parquet (PROMPT_TABLE), history.json.

    Args:
        inputs: the fine-tuned VLM ``start_from``, its ``subset_<subset>``, ``image_text_pairs``,
            ``instruction_samples``, ``score_model``.
        start_from: input whose first seed's model is trained.

    Raises:
        DataError: the subset has no captions, or too few instruction samples for prompts and held-out prompts.
        ModelError: a model cannot be loaded, or training diverges.
    """
    config = settings.rl_policy
    captions: list[SftExample] = []
    if config.reasoning_samples:
        captions = as_sft_examples(subset_samples(inputs, subset, "image_text_pairs", "caption"))
    root = settings.state / "rl_policy" / "reasoning_model"
    parts = {
        "rl_policy": config.model_dump(mode="json"),
        "heldout_share": settings.preference_data.heldout_share,
        "compute": settings.compute.model_dump(mode="json"),
        "seed": settings.seed,
    }
    scratch = keyed_folder(root, inputs, parts, "rl_policy.reasoning_model")
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    samples = read_table(inputs["instruction_samples"] / "samples.parquet")
    selected = select_prompts(samples, scorer, config, settings.preference_data.heldout_share, settings.seed)
    vlm = load_vlm(inputs[start_from] / "model", settings.compute)
    history: list[StepMetrics] = []
    if selected.reasoning:
        train_language_only(vlm)
        replayed = replay(captions, config.reasoning.caption_replay, settings.seed)
        examples = list(_reasoning_examples(selected.reasoning, replayed))
        training = TrainingRun(settings.seed, settings.compute, scratch, logger)
        history = train_supervised(vlm.model, vlm.processor, examples, config.reasoning, None, training, "reasoning")
    save_vlm(vlm, out / "model")
    selected.write(out / "prompts.parquet")
    write_history(history, out / "history.json")
    logger.log_model("reasoning_model", out / "model")
    shutil.rmtree(root, ignore_errors=True)
    return {
        "reasoning_samples": float(len(selected.reasoning)),
        "prompts": float(len(selected.prompts)),
        "heldout_prompts": float(len(selected.heldout)),
        "unusable_samples": float(selected.dropped.total()),
    }


def _reasoning_examples(samples: Sequence[PolicyPrompt], captions: Sequence[SftExample]) -> Iterator[SftExample]:
    for sample in samples:
        answer = reasoned_answer(sample.task, sample.reference)
        yield SftExample(sample.image, reasoning_prompt(sample.context), answer, sample.sample_id)
    for caption in captions:
        answer = reasoned_answer("caption", caption.answer)
        yield SftExample(caption.image, reasoning_prompt(caption.prompt), answer, caption.sample_id)


def train_language_only(vlm: Vlm) -> None:
    """Freezes the vision tower and the connector; everything else is trained."""
    vlm.model.requires_grad_(True)
    for module in family_of(vlm.model).vision_of(vlm.model):
        module.requires_grad_(False)
