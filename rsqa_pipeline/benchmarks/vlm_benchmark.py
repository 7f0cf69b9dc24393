"""Benchmarks every VLM and policy: question answering, grounding and multiple choice (paper, evaluation).

Fine-tuned models get the plain question. A policy gets the reasoning prompt that it was trained with, and only the
text between its answer tags is graded. A reply without tags is wrong, as its reward was 0 in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.answers import ask, context_of, grade
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    ALL_TASKS,
    COMPARED,
    MetricInfo,
    Outcome,
    compare,
    metric_infos,
    plot_results,
    pooled,
    summarise,
    write_results,
)
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, Metrics
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer
from rsqa_pipeline.tracking.run_logger import RunLogger

SUBSET_MODELS = ("all", "random_30", "clip_score_30", "score_model_30")
POLICIES = ("rl_policy", "rl_policy_rules_only")
REASONING_FACTOR = 6
"""Maximum length of a reply with reasoning, as a multiple of a plain reply."""
_POOLED_METRIC = "accuracy"


@dataclass(frozen=True)
class ReplyFormat:
    """How a model is prompted and how its answer is read."""

    prompt: Callable[[Sequence[Message]], list[Message]]
    """Question -> prompt."""
    read: Callable[[str], str | None]
    """Whole reply -> the answer in it, None if there is none."""
    length_factor: int
    """Maximum length of a reply, as a multiple of a plain answer."""


PLAIN = ReplyFormat(list, str, 1)
REASONING = ReplyFormat(reasoning_prompt, read_answer, REASONING_FACTOR)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions`` (parquet) and ``plots/accuracy.png``.

    Raises:
        DataError: the item table has no item of any VLM task.
    """
    config = settings.benchmarks
    tasks = read_items(inputs["benchmark_sets"], load_tasks("vlm"))
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    folders = {"base": base_model(inputs["base_models"], "vlm")}
    folders |= {name: str(inputs[f"vlm_{name}"] / "model") for name in SUBSET_MODELS}
    folders |= {name: str(inputs[name] / "model") for name in POLICIES}
    outcomes: list[Outcome] = []
    for model, folder in tqdm(folders.items(), desc="vlm benchmark", unit="model"):
        reply_format = REASONING if model in POLICIES else PLAIN
        vlm = load_vlm(folder, settings.compute)
        outcomes += evaluate(vlm, model, tasks, reply_format, config.max_new_tokens, config.batch_size, settings.seed)
    fractional = {task.name for task, _ in tasks if task.interval == "bootstrap"}
    counted = outcomes + pooled([o for o in outcomes if o.task not in fractional], _POOLED_METRIC)
    infos = metric_infos(tasks)
    answered = [(task, len(items)) for task, items in tasks if task.name not in fractional]
    levels = [infos[task.name, task.metrics[0].name].chance for task, _ in answered]
    chance = float(np.average(levels, weights=[count for _, count in answered]))
    infos[(ALL_TASKS, _POOLED_METRIC)] = MetricInfo(chance, binary=True)
    results = summarise(counted, infos, config.bootstrap_resamples, settings.seed)
    comparisons = compare(counted, COMPARED, config.bootstrap_resamples, settings.seed)
    shown = [(task, metric, task.replace("_", "\n")) for task, metric in infos]
    plot_results(out / "plots" / "accuracy.png", results, shown)
    return write_results(out, outcomes, results, comparisons)


def evaluate(
    vlm: Vlm, model: str, tasks: TaskItems, reply_format: ReplyFormat, max_new_tokens: int, batch_size: int, seed: int
) -> list[Outcome]:
    """Outcomes of one VLM with greedy decoding on every item of every task, each with the whole reply."""
    outcomes = []
    for task, items in tasks:
        contexts = [reply_format.prompt(context_of(task, item)) for item in items]
        references = [item["image"] for item in items]
        max_reply_tokens = max_new_tokens * reply_format.length_factor * task.length_factor
        replies = ask(vlm, contexts, references, max_reply_tokens, batch_size, seed)
        for item, (reply,) in zip(items, replies, strict=True):
            value = grade(task, item, reply_format.read(reply))
            outcomes.append(Outcome(model, item["item_id"], task.name, task.metrics[0].name, reply, value))
    return outcomes
