"""Benchmarks every VLM and policy: question answering, grounding and multiple choice (paper, evaluation).

Fine-tuned models get the plain question. A policy gets the reasoning prompt that it was trained with, and only the
text between its answer tags is graded. A reply without tags is wrong, as its reward was 0 in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.answers import MARKERS, ask, context_of, mark
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    ALL_TASKS,
    MetricInfo,
    Outcome,
    compare,
    metric_infos,
    plot_results,
    pooled,
    rows_of,
    summarise,
    write_results,
)
from rsqa_pipeline.benchmarks.task import function_of, load_tasks
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, Metrics
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer
from rsqa_pipeline.tracking.run_logger import RunLogger

REASONING_FACTOR = 6
"""Maximum length of a reply with reasoning, as a multiple of a plain reply."""
POOLED_METRIC = "accuracy"
LENIENT_METRIC = "lenient_accuracy"


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


def run(
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    *,
    models: Mapping[str, str],
    policies: Sequence[str],
    comparisons: Sequence[Sequence[str]],
) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions`` (parquet) and ``plots/accuracy.png``.

    Args:
        models: subset -> the input that holds its models.
        policies: inputs that hold a policy, asked with the reasoning prompt.
        comparisons: (model, baseline) pairs.

    Raises:
        DataError: the item table has no item of any VLM task.
    """
    config, seeds = settings.benchmarks, settings.finetuned_models.seeds
    tasks = read_items(inputs["benchmark_sets"], load_tasks("vlm"))
    infos = metric_infos(tasks)
    for task, _ in tasks:
        for metric in task.metrics:
            function_of(task, "marker", MARKERS, metric)  # an unknown name is found before any model is loaded
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    folders = rows_of(inputs, "vlm", models, seeds)
    folders += [(name, None, str(inputs[name] / "model")) for name in policies]
    outcomes: list[Outcome] = []
    for model, seed, folder in tqdm(folders, desc="vlm benchmark", unit="model"):
        reply_format = REASONING if model in policies else PLAIN
        vlm = load_vlm(folder, settings.compute)
        found = evaluate(vlm, model, tasks, reply_format, config.max_new_tokens, config.batch_size, settings.seed)
        outcomes += [replace(outcome, seed=seed) for outcome in found]
    counted = outcomes + _over_all_tasks(outcomes, tasks, infos)
    results = summarise(counted, infos, config.bootstrap_resamples, settings.seed)
    differences = compare(counted, comparisons, config.bootstrap_resamples, settings.seed)
    main = [(task.name, task.metrics[0].name) for task, _ in tasks] + [(ALL_TASKS, POOLED_METRIC)]
    shown = [(task, metric, task.replace("_", "\n")) for task, metric in main if (task, metric) in infos]
    plot_results(out / "plots" / "accuracy.png", results, shown, Compared.of(settings))
    return write_results(out, outcomes, results, differences)


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
            answer = reply_format.read(reply)
            outcomes += [
                Outcome(
                    model,
                    item["item_id"],
                    item["image_id"],
                    task.name,
                    metric.name,
                    reply,
                    mark(task, item, answer, metric),
                )
                for metric in task.metrics
            ]
    return outcomes


def _over_all_tasks(
    outcomes: Sequence[Outcome], tasks: TaskItems, infos: dict[tuple[str, str], MetricInfo]
) -> list[Outcome]:
    """The outcomes of `ALL_TASKS` under each metric, whose `MetricInfo` is added to ``infos``.

    Tasks with fractional grades are left out. The lenient row takes the strict grades of a task without lenient ones.
    """
    answered = [(task, len(items)) for task, items in tasks if task.interval == "wilson"]
    found: list[Outcome] = []
    for name, position in ((POOLED_METRIC, 0), (LENIENT_METRIC, -1)):
        metrics = {task.name: task.metrics[position].name for task, _ in answered}
        if not metrics:
            continue
        levels = [infos[task.name, metrics[task.name]].chance for task, _ in answered]
        chance = float(np.average(levels, weights=[count for _, count in answered]))
        infos[ALL_TASKS, name] = MetricInfo(chance, binary=True)
        found += pooled([o for o in outcomes if metrics.get(o.task) == o.metric], name)
    return found
