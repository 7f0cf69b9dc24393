"""Benchmarks every VLM and policy: question answering, grounding and multiple choice (paper, evaluation).

Fine-tuned models get the plain question. A policy gets the reasoning prompt that it was trained with, and only the
text between its answer tags is graded. A reply without tags is wrong, as its reward was 0 in training.

Replies are kept in the profile's state (`kept_replies`): a run that is killed resumes, and an item whose image, prompt,
weights and decoding are as before is not generated again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.answers import MARKERS, READABLE, ask_once, context_of, mark, reply_key
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.benchmarks.reply_format import PLAIN, REASONING, ReplyFormat, with_boxes_of_family
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
from rsqa_pipeline.benchmarks.served import served_replies
from rsqa_pipeline.benchmarks.task import BenchmarkTask, function_of, load_tasks
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import TextModel
from rsqa_pipeline.profile.profile import Benchmarks
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import code_version

POOLED_METRIC = "accuracy"
LENIENT_METRIC = "lenient_accuracy"


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

    Also returns the counts of unreadable and missing replies (`_reply_counts`).

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
    formats: dict[str, ReplyFormat] = {}
    cache = settings.score_cache("vlm_benchmark")
    with KeptReplies(cache) as kept:
        for model, seed, folder in tqdm(folders, desc="vlm benchmark", unit="model"):
            vlm = load_vlm(folder, settings.compute)
            formats[model] = REASONING if model in policies else _plain(model, config, vlm)
            found = evaluate(vlm, model, tasks, formats[model], config.max_new_tokens, config.batch_size, kept)
            outcomes += [replace(outcome, seed=seed) for outcome in found]
        for name, served in config.served.items():
            formats[name] = _plain(name, config, None)
            outcomes += evaluate_served(name, served, tasks, formats[name], config.max_new_tokens, cache)
        kept.compact()
    counted = outcomes + _over_all_tasks(outcomes, tasks, infos)
    results = summarise(counted, infos, config.bootstrap_resamples, settings.seed)
    differences = compare(counted, comparisons, config.bootstrap_resamples, settings.seed)
    main = [(task.name, task.metrics[0].name) for task, _ in tasks] + [(ALL_TASKS, POOLED_METRIC)]
    shown = [(task, metric, task.replace("_", "\n")) for task, metric in main if (task, metric) in infos]
    plot_results(out / "plots" / "accuracy.png", results, shown, Compared.of(settings))
    return write_results(out, outcomes, results, differences) | _reply_counts(outcomes, tasks, formats, config)


def _plain(model: str, config: Benchmarks, vlm: Vlm | None) -> ReplyFormat:
    """How a model that was not trained to reason is asked. ``vlm`` is None for a served one."""
    boxes = config.reply_boxes.get(model)
    if boxes is None:
        return PLAIN
    declared = boxes.declared()
    if declared is not None:
        return replace(PLAIN, boxes=declared)
    assert vlm is not None  # checked by the profile
    return with_boxes_of_family(vlm)


def evaluate(
    vlm: Vlm,
    model: str,
    tasks: TaskItems,
    reply_format: ReplyFormat,
    max_new_tokens: int,
    batch_size: int,
    kept: KeptReplies,
) -> list[Outcome]:
    """Outcomes of one VLM with greedy decoding on every item of every task, each with the whole reply."""
    outcomes = []
    code = code_version("models.generate")
    for task, items in tasks:
        contexts = [reply_format.prompt(context_of(task, item)) for item in items]
        tokens = max_new_tokens * reply_format.length_factor * task.length_factor
        parameter = next(vlm.model.parameters())
        decoding = {"tokens": tokens, "code": code, "on": f"{parameter.device.type} {parameter.dtype}"}
        keys = [reply_key(item, context, vlm.version, decoding) for item, context in zip(items, contexts, strict=True)]
        replies = ask_once(vlm, contexts, [item["image"] for item in items], keys, kept, tokens, batch_size)
        outcomes += _outcomes(model, task, items, replies, reply_format)
    return outcomes


def evaluate_served(
    model: str, served: TextModel, tasks: TaskItems, reply_format: ReplyFormat, max_new_tokens: int, cache: Path
) -> list[Outcome]:
    """Outcomes of a VLM behind a server on every item that it replied to."""
    outcomes = []
    for task, items in tasks:
        contexts = [reply_format.prompt(context_of(task, item)) for item in items]
        tokens = max_new_tokens * reply_format.length_factor * task.length_factor
        replies = served_replies(model, served, items, contexts, tokens, cache / f"{model}.served.jsonl")
        outcomes += _outcomes(model, task, items, replies, reply_format)
    return outcomes


def _outcomes(
    model: str,
    task: BenchmarkTask,
    items: Sequence[dict[str, Any]],
    replies: Sequence[str | None],
    reply_format: ReplyFormat,
) -> list[Outcome]:
    """Grades of the replies under every metric; an item without a reply has none."""
    outcomes = []
    for item, reply in zip(items, replies, strict=True):
        if reply is None:
            continue
        answer = reply_format.answer(reply, task, item)
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


def _reply_counts(
    outcomes: Sequence[Outcome], tasks: TaskItems, formats: Mapping[str, ReplyFormat], config: Benchmarks
) -> Metrics:
    """``unreadable/<model>/<task>``: replies without an answer, over all seeds; they are wrong. ``no_reply/...``: items
    that a server did not answer; they count nowhere else. Counts of 0 are left out."""
    counts: Counter[str] = Counter()
    for task, items in tasks:
        by_id = {item["item_id"]: item for item in items}
        main = [o for o in outcomes if (o.task, o.metric) == (task.name, task.metrics[0].name)]
        for outcome in main:
            answer = formats[outcome.model].answer(outcome.prediction or "", task, by_id[outcome.item_id])
            counts[f"unreadable/{outcome.model}/{task.name}"] += not READABLE[task.marker](answer)
        for name in config.served:
            counts[f"no_reply/{name}/{task.name}"] = len(items) - sum(o.model == name for o in main)
    return {name: float(count) for name, count in sorted(counts.items()) if count}


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
