"""Every VLM and policy: question answering, grounding and multiple choice (paper, evaluation).

Fine-tuned models are asked plainly. A policy is asked with the reasoning prompt that it was trained with, and
what it says between its answer tags is marked; without them its reply is wrong, as its reward was 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.answers import ask, context_of, mark
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    ALL_TASKS,
    COMPARED,
    Figure,
    Outcome,
    compare,
    figures_of,
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
"""A reply with its reasoning may be this many times as long as a plain one."""
_POOLED_METRIC = "accuracy"


@dataclass(frozen=True)
class Manner:
    """How a model is asked and how its answer is read."""

    prompt: Callable[[Sequence[Message]], list[Message]]
    """From the question to what is asked."""
    read: Callable[[str], str | None]
    """From a whole reply to the answer in it, None where there is none."""
    length_factor: int
    """Length of a reply over that of a plain answer, at most."""


PLAIN = Manner(list, str, 1)
REASONING = Manner(reasoning_prompt, read_answer, REASONING_FACTOR)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions`` (parquet) and ``plots/accuracy.png``.

    Raises:
        DataError: the item table has no item of any VLM task.
    """
    marks = settings.benchmarks
    tasks = read_items(inputs["benchmark_sets"], load_tasks("vlm"))
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    folders = {"base": base_model(inputs["base_models"], "vlm")}
    folders |= {name: str(inputs[f"vlm_{name}"] / "model") for name in SUBSET_MODELS}
    folders |= {name: str(inputs[name] / "model") for name in POLICIES}
    outcomes: list[Outcome] = []
    for model, folder in tqdm(folders.items(), desc="vlm benchmark", unit="model"):
        manner = REASONING if model in POLICIES else PLAIN
        vlm = load_vlm(folder, settings.compute)
        outcomes += evaluate(vlm, model, tasks, manner, marks.max_new_tokens, marks.batch_size, settings.seed)
    graded = {task.name for task, _ in tasks if task.interval == "bootstrap"}
    counted = outcomes + pooled([o for o in outcomes if o.task not in graded], _POOLED_METRIC)
    figures = figures_of(tasks)
    answered = [(task, len(items)) for task, items in tasks if task.name not in graded]
    levels = [figures[task.name, task.metrics[0].name].chance for task, _ in answered]
    chance = float(np.average(levels, weights=[count for _, count in answered]))
    figures[(ALL_TASKS, _POOLED_METRIC)] = Figure(chance, binary=True)
    results = summarise(counted, figures, marks.bootstrap_resamples, settings.seed)
    comparisons = compare(counted, COMPARED, marks.bootstrap_resamples, settings.seed)
    shown = [(task, metric, task.replace("_", "\n")) for task, metric in figures]
    plot_results(out / "plots" / "accuracy.png", results, shown)
    return write_results(out, outcomes, results, comparisons)


def evaluate(
    vlm: Vlm, model: str, tasks: TaskItems, manner: Manner, max_new_tokens: int, batch_size: int, seed: int
) -> list[Outcome]:
    """Marks of one VLM, decoding greedily, on every item of every task, each beside the whole reply."""
    outcomes = []
    for task, items in tasks:
        contexts = [manner.prompt(context_of(task, item)) for item in items]
        references = [item["image"] for item in items]
        longest = max_new_tokens * manner.length_factor * task.length_factor
        replies = ask(vlm, contexts, references, longest, batch_size, seed)
        for item, (reply,) in zip(items, replies, strict=True):
            value = mark(task, item, manner.read(reply))
            outcomes.append(Outcome(model, item["item_id"], task.name, task.metrics[0].name, reply, value))
    return outcomes
