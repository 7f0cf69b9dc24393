"""A small synthetic run: every asset folder with its real schema and values that a test can recognise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

from rsqa_pipeline import plots
from rsqa_pipeline.benchmarks.curation_curve import plot_curve
from rsqa_pipeline.benchmarks.reward_bench import plot_bench
from rsqa_pipeline.benchmarks.selectors import SCORERS, SELECTORS
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.curated_subsets.drift import compare_scores, plot_drift, write_drift
from rsqa_pipeline.images.decode import hash_image
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.profile.profile import ReportSettings
from rsqa_pipeline.records import (
    BENCHMARK_ITEM,
    IMAGE_TEXT_SAMPLE,
    PREFERENCE_PAIR,
    QUARANTINE,
    SCORED_SAMPLE,
    SUBSET,
    Message,
    sample_id,
    write_table,
)
from rsqa_pipeline.report.curation_report import run
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger

TRUTH = pa.schema(
    [
        ("sample_id", pa.string()),
        ("image_id", pa.string()),
        ("scene", pa.int64()),
        ("corruption", pa.string()),
        ("original_text", pa.string()),
    ]
)
QUALITY = {"expert": 4.6, "swapper": 3.1, "counter": 2.9, "vague": 2.2}
DEMO = load_profile(str(Path(__file__).parents[2] / "configs/profiles/demo.yaml"))
ASSETS = assets_of(DEMO)
SUBSETS = list(DEMO.curated_subsets.subsets)
MODELS = {"base": 0.40, "all": 0.55, "random_p30s60": 0.52, "clip_score_p30s60": 0.56, "score_model_p30s60": 0.68}
POLICIES = {"rl_policy_rules_only": 0.69, "rl_policy": 0.74}
TASKS = {
    "clip": [("classification", "top_1"), ("classification", "top_5"), ("retrieval", "image_to_text_r1"),
             ("retrieval", "text_to_image_r1")],
    "vlm": [("presence", "accuracy"), ("comparison", "accuracy"), ("count", "accuracy"), ("rural_urban", "accuracy"),
            ("grounding", "accuracy_iou_0.5"), ("choice", "accuracy"), ("scene_class", "accuracy"),
            ("all_tasks", "accuracy")],
}  # fmt: skip


class SyntheticRun:
    """Asset folders below ``root``.

    Args:
        truth_known: False leaves true quality, scenes and truth labels missing, as with real imagery.
        faults: names of recorded caption corruptions; empty = none recorded.
    """

    def __init__(self, root: Path, truth_known: bool = True, faults: tuple[str, ...] = ()) -> None:
        self.root, self.truth_known, self.faults = root, truth_known, faults
        self.rng = np.random.default_rng(3)
        self.inputs = {name: root / asset.stage / name for name, asset in ASSETS.items() if asset.stage != "report"}
        for folder in self.inputs.values():
            folder.mkdir(parents=True)
        self.samples = {"caption": self._captions(), "instruction": self._instructions()}
        self._benchmark_sets()
        self._models()
        self._preferences()
        self._accuracy()
        self._scores_and_subsets()
        self._policies()
        self._benchmarks()
        self._best_of_n()
        self._reward_bench()
        self._curve_and_drift()

    def _picture(self, number: int) -> tuple[str, str]:
        path = self.root / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng(number)
        ground = np.array([[70, 110, 60], [150, 140, 110], [90, 120, 160]])[number % 3]
        pixels = np.clip(ground + rng.normal(0, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
        for _ in range(1 + number % 4):
            y, x = rng.integers(4, 50, 2)
            pixels[y : y + 9, x : x + 9] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(path)
        return str(path), hash_image(path.read_bytes())

    def _sample(self, number: int, source: str, messages: list[Message], task: str, split: str) -> dict[str, Any]:
        image, image_id = self._picture(number)
        quality = float(np.clip(QUALITY[source] + self.rng.normal(0, 0.3), 1, 5)) if self.truth_known else None
        return {
            "sample_id": sample_id(image_id, messages), "image_id": image_id, "image": image, "messages": messages,
            "task": task, "source": source, "split": split, "true_quality": quality,
            "scene_class": "storage_tanks" if number % 2 else None,
        }  # fmt: skip

    def _captions(self) -> list[dict[str, Any]]:
        rows = []
        for number in range(90):
            for source in QUALITY:
                text = f"{source} says: two white tanks & <b>three</b> red ships on the left of scene {number}"
                turns: list[Message] = [{"role": "assistant", "content": text}]
                rows.append(self._sample(number, source, turns, "caption", "preference" if number >= 75 else "corpus"))
        folder = self.inputs["image_text_pairs"]
        write_table(folder / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
        truth = [
            {"sample_id": r["sample_id"], "image_id": r["image_id"], "scene": i if self.truth_known else None,
             "corruption": self.faults[i % len(self.faults)] if self.faults and r["source"] != "expert" else None}
            for i, r in enumerate(rows)
        ]  # fmt: skip
        write_table(folder / "truth.parquet", TRUTH, truth)
        write_table(
            folder / "quarantine.parquet",
            QUARANTINE,
            [{"asset": "image_text_pairs", "sample_id": f"x{i}", "reason": reason, "detail": "made up"}
             for i, reason in enumerate(["empty_text", "truncated", "truncated"])],
        )  # fmt: skip
        return rows

    def _instructions(self) -> list[dict[str, Any]]:
        rows = []
        for number in range(100, 160):
            source = list(QUALITY)[number % 4]
            turns: list[Message] = [
                {"role": "user", "content": f"How many ships are there in scene {number}?"},
                {"role": "assistant", "content": str(number % 5)},
            ]
            rows.append(self._sample(number, source, turns, "count", "corpus"))
        write_table(self.inputs["instruction_samples"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
        write_table(self.inputs["instruction_samples"] / "quarantine.parquet", QUARANTINE, [])
        return rows

    def _benchmark_sets(self) -> None:
        image, image_id = self._picture(500)
        item = {"item_id": "count-1", "task": "count", "image_id": image_id, "image": image, "answer": "3"}
        write_table(self.inputs["benchmark_sets"] / "items.parquet", BENCHMARK_ITEM, [item])
        write_table(self.inputs["benchmark_sets"] / "quarantine.parquet", QUARANTINE, [])

    def _weights(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({"w": self.rng.normal(size=(50, 1000)).astype(np.float32)}, folder / "model.safetensors")

    def _models(self) -> None:
        for kind in ("vlm", "clip"):
            folder = self.inputs["base_models"]
            self._weights(folder / kind)
            note = {"path": kind, "version": weights_version(folder / kind)}
            (folder / f"{kind}.json").write_text(json.dumps(note))
        phases = {"score_head": 0.6, "caption_score_model": 0.5, "score_model": 0.4}
        for name, level in phases.items():
            self._weights(self.inputs[name] / "model")
            self._history(name, [{"loss": level / (1 + i / 20), "accuracy": 0.5 + i / 200} for i in range(60)])
        for place, subset in enumerate(SUBSETS):
            for name in (f"clip_{subset}", f"vlm_{subset}"):
                self._weights(self.inputs[name] / "model")
            losses = [{"loss": 3 - 0.1 * place - i / 40} for i in range(40)]
            self._history(f"clip_{subset}", losses)
            self._history(f"vlm_{subset}", [{**r, "phase": p} for p in ("captions", "instructions") for r in losses])

    def _history(self, name: str, rows: list[dict[str, Any]]) -> None:
        history = [{"step": place + 1, **row} for place, row in enumerate(rows)]
        (self.inputs[name] / "history.json").write_text(json.dumps(history))

    def _preferences(self) -> None:
        for name in ("text_preferences", "caption_preferences", "instruction_preferences"):
            pair = {"pair_id": "p", "family": "text", "context": [], "chosen": "a", "rejected": "b", "split": "train"}
            write_table(self.inputs[name] / "pairs.parquet", PREFERENCE_PAIR, [pair])
            write_table(self.inputs[name] / "quarantine.parquet", QUARANTINE, [])

    def _accuracy(self) -> None:
        levels = {"score_model": 0.912, "clip_score": 0.613, "random": 0.5}
        self.accuracy = [
            {"selector": selector, "family": family, "label": label, "value": level - 0.01 * place,
             "low": level - 0.01 * place - (0.03 if selector != "random" else 0),
             "high": level - 0.01 * place + (0.03 if selector != "random" else 0), "n": 400}
            for selector, level in levels.items()
            for place, family in enumerate(("all", "caption", "close_ended", "open_ended", "rs_specific"))
            for label in (("judge", "truth") if self.truth_known else ("judge",))
        ]  # fmt: skip
        folder = self.inputs["score_model_report"]
        (folder / "accuracy.json").write_text(json.dumps(self.accuracy))
        difference = {"selector": "score_model", "baseline": "clip_score", "family": "all", "label": "judge",
                      "value": 0.299, "low": 0.25, "high": 0.34, "n": 400}  # fmt: skip
        (folder / "difference.json").write_text(json.dumps([difference]))
        agreement = {"value": 0.926, "low": 0.9, "high": 0.95, "n": 400} if self.truth_known else None
        trust = {"calibration": {"ece": 0.031, "bins": []}, "length_bias": {}, "judge_agrees_with_truth": agreement}
        (folder / "calibration.json").write_text(json.dumps(trust))
        probe = {"probe": "number", "value": 0.9, "low": 0.86, "high": 0.93, "n": 300}
        (folder / "probes.json").write_text(json.dumps([probe]))
        figure, axes = plots.new_figure(5.2, 3.4)
        axes.plot([0, 1], [0, 1])
        plots.save(figure, folder / "plots" / "calibration.png")

    def _scores_and_subsets(self) -> None:
        corpus = [(kind, row) for kind, rows in self.samples.items() for row in rows if row["split"] == "corpus"]
        true = {row["sample_id"]: QUALITY[row["source"]] for _, row in corpus}
        self.scores: dict[str, dict[str, float]] = {}
        models = {
            "pair_scores": (1.2, self.inputs["score_model"] / "model"),
            "clip_scores": (0.05, self.inputs["base_models"] / "clip"),
        }
        for asset, (clearness, model) in models.items():
            scores = {i: clearness * q + float(self.rng.normal(0, 0.5)) for i, q in true.items()}
            version = weights_version(model)
            rows = [{"sample_id": i, "score": score, "model_version": version} for i, score in scores.items()]
            write_table(self.inputs[asset] / "scores.parquet", SCORED_SAMPLE, rows)
            write_table(self.inputs[asset] / "quarantine.parquet", QUARANTINE, [])
            self.scores[asset] = scores
        keys = {
            "random_p30s60": {i: float(self.rng.random()) for i in true},
            "clip_score_p30s60": self.scores["clip_scores"],
            "score_model_p30s60": self.scores["pair_scores"],
        }
        self.kept: dict[str, set[str]] = {}
        for subset in SUBSETS:
            rows = []
            for kind, share in (("caption", 0.3), ("instruction", 0.6)):
                ids = [row["sample_id"] for k, row in corpus if k == kind]
                if subset != "all":
                    ids = sorted(ids, key=lambda i, by=keys[subset]: -by[i])[: round(share * len(ids))]
                rows += [{"sample_id": i, "kind": kind} for i in ids]
            self.kept[subset] = {row["sample_id"] for row in rows}
            write_table(self.inputs[f"subset_{subset}"] / "ids.parquet", SUBSET, rows)
            rule = {"subset": subset, "selector": subset.removesuffix("_30"), "kept": len(rows)}
            (self.inputs[f"subset_{subset}"] / "rule.json").write_text(json.dumps(rule))

    def _policies(self) -> None:
        def figure(value: float, low: float, high: float) -> dict[str, Any]:
            whole = {"value": value, "low": low, "high": high, "n": 128}
            return {**whole, "format": whole, "accuracy": whole}

        for name, gain in (("rl_policy", 0.1), ("rl_policy_rules_only", 0.04)):
            self._weights(self.inputs[name] / "model")
            rng = np.random.default_rng(4)
            self._history(name, [{"reward": 0.4 + gain * i / 40 + rng.normal(0, 0.03), "format": 0.9, "accuracy": 0.3,
                                  "kl": i / 1000, "equal_groups": 0.5} for i in range(50)])  # fmt: skip
            moments = {"before": figure(0.412, 0.38, 0.44), "after": figure(0.412 + gain, 0.47, 0.55),
                       "difference": figure(gain, gain - 0.05, gain + 0.05)}  # fmt: skip
            rewards = {**moments, "kinds": {"open_ended": moments, "close_ended": moments}}
            (self.inputs[name] / "rewards.json").write_text(json.dumps(rewards))

    def _benchmarks(self) -> None:
        self.results: dict[str, list[dict[str, Any]]] = {}
        for family, places in TASKS.items():
            levels = MODELS if family == "clip" else {**MODELS, **POLICIES}
            self.results[family] = [
                {"model": model, "task": task, "metric": metric, "value": level - 0.03 * place,
                 "low": level - 0.03 * place - 0.05, "high": level - 0.03 * place + 0.05, "n": 300,
                 "chance": None if task == "grounding" else 0.2}
                for model, level in levels.items()
                for place, (task, metric) in enumerate(places)
            ]  # fmt: skip
            comparisons = [
                {"task": task, "metric": metric, "model": "score_model_p30s60", "baseline": rival,
                 "difference": MODELS["score_model_p30s60"] - MODELS[rival] - 0.06 * place,
                 "low": MODELS["score_model_p30s60"] - MODELS[rival] - 0.06 * place - 0.05,
                 "high": MODELS["score_model_p30s60"] - MODELS[rival] - 0.06 * place + 0.05,
                 "p_value": None if task == "retrieval" else 0.0004 + 0.03 * place}
                for place, (task, metric) in enumerate(places)
                for rival in ("base", "all", "random_p30s60", "clip_score_p30s60")
            ]  # fmt: skip
            if family == "vlm":
                comparisons += [{"task": "choice", "metric": "accuracy", "model": "rl_policy",
                                 "baseline": "score_model_p30s60", "difference": 0.06, "low": 0.01, "high": 0.11,
                                 "p_value": 0.02}]  # fmt: skip
            folder = self.inputs[f"{family}_benchmark"]
            pq.write_table(pa.Table.from_pylist(self.results[family]), folder / "results.parquet")
            pq.write_table(pa.Table.from_pylist(comparisons), folder / "comparisons.parquet")

    def _best_of_n(self) -> None:
        slopes = {"score_model": 0.05, "clip_score": 0.01, "mean_log_probability": 0.02, "majority_vote": 0.03,
                  "random": 0.0, "oracle": 0.1}  # fmt: skip
        self.curve = [
            {"vlm": "score_model_p30s60", "selector": selector, "task": task, "n": n,
             "value": 0.45 + slope * np.log2(n), "low": 0.45 + slope * np.log2(n) - 0.06,
             "high": 0.45 + slope * np.log2(n) + 0.06, "items": 150,
             "gap_share": None if n == 1 else 10 * slope, "gap_low": None if n == 1 else 10 * slope - 0.05,
             "gap_high": None if n == 1 else 10 * slope + 0.05, "kl": np.log(n) - (n - 1) / n, "tokens": 3.5 * n,
             "selector_tokens": 1.5 * n if selector in SCORERS else 0.0}
            for task in ("caption", "choice", "grounding", "all_tasks")
            for selector, slope in slopes.items()
            if (selector, task) != ("majority_vote", "caption")
            for n in (1, 2, 4, 8, 16)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(self.curve), self.inputs["best_of_n_benchmark"] / "curve.parquet")
        # the score model saturates from 8 answers on; CLIP score is over-optimised from 4 on
        self.changes = [
            {"selector": selector, "task": task, "from_n": before, "to_n": after, "difference": 0.0, "low": -0.1,
             "high": 0.1, "score_gain": 1.0 if selector in SCORERS else None,
             "saturated": (selector, before) == ("score_model", 8) if after == 2 * before else None,
             "over_optimised": (selector == "clip_score" and after >= 4) if selector in SCORERS else None}
            for task in ("caption", "choice", "grounding", "all_tasks")
            for selector in SELECTORS
            if selector != "random"
            for before, after in combinations((1, 2, 4, 8, 16), 2)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(self.changes), self.inputs["best_of_n_benchmark"] / "changes.parquet")
        names = {"task": "all_tasks", "metric": "best_of_16", "model": "score_model", "baseline": "majority_vote"}
        comparisons = [{**names, "difference": 0.08, "low": 0.02, "high": 0.14, "p_value": 0.01}]
        pq.write_table(pa.Table.from_pylist(comparisons), self.inputs["best_of_n_benchmark"] / "comparisons.parquet")

    def _reward_bench(self) -> None:
        """Six kinds of fault; place could not be made."""
        tasks = [task.name for task in load_tasks("scorer") if task.name != "reward_place"] + ["all_tasks"]
        levels = {"score_model": {"pairs": 0.913, "four_way": 0.807}, "clip_score": {"pairs": 0.7, "four_way": 0.5}}
        results = [
            {"model": scorer, "task": task, "metric": metric, "value": level, "low": level - 0.02, "high": level + 0.02,
             "n": 200, "chance": {"pairs": 0.5, "four_way": 0.25}[metric]}
            for task in tasks for scorer, of in levels.items() for metric, level in of.items()
        ]  # fmt: skip
        gaps = [
            {"task": task, "metric": metric, "model": "score_model", "baseline": "clip_score", "difference": 0.213,
             "low": 0.2, "high": 0.24, "p_value": 0.001}
            for task in tasks for metric in ("pairs", "four_way")
        ]  # fmt: skip
        folder = self.inputs["reward_bench"]
        pq.write_table(pa.Table.from_pylist(results), folder / "results.parquet")
        pq.write_table(pa.Table.from_pylist(gaps), folder / "comparisons.parquet")
        plot_bench(folder / "plots" / "accuracy.png", results, load_tasks("scorer")[0].metrics)

    def _curve_and_drift(self) -> None:
        heights = {"score_model": 0.77, "clip_score": 0.73, "random": 0.70}
        self.curation_curve = [
            {"ranking": ranking, "fraction": fraction, "captions": round(300 * fraction),
             "value": height - 0.1 * abs(fraction - 0.3), "low": height - 0.12, "high": height + 0.02, "n": 200}
            for ranking, height in heights.items()
            for fraction in (0.05, 0.3, 1.0)
        ]  # fmt: skip
        folder = self.inputs["curation_curve"]
        pq.write_table(pa.Table.from_pylist(self.curation_curve), folder / "curve.parquet")
        best = {"best_fraction": 0.3, "smallest_fraction": 0.05, "difference": 0.025, "low": -0.01, "high": 0.05}
        self.smallest = dict.fromkeys(heights, best)
        notes = {"rankings": self.smallest, "same_words_for_all": 0.564, "seeds": 5}
        (folder / "smallest.json").write_text(json.dumps(notes))
        plot_curve(self.curation_curve, self.smallest, 0.564, folder / "plots" / "curation_curve.png")
        final = pd.Series(self.scores["pair_scores"]).sort_index()[:200]
        earlier = final + self.rng.normal(0.4, 0.2, len(final))
        self.drift = compare_scores(earlier, final)
        write_drift(self.drift, self.inputs["score_drift"] / "drift.json")
        plots_folder = self.inputs["score_drift"] / "plots"
        plot_drift(earlier, final, ("caption phase", "final model"), plots_folder / "drift.png")


SETTINGS = Profile.model_construct(
    curated_subsets=DEMO.curated_subsets,
    finetuned_models=DEMO.finetuned_models,
    name="made-up",
    description="figures made up for a test",
    seed=7,
    report=ReportSettings(gallery_size=4),
)


@dataclass(frozen=True)
class Page:
    """A synthetic run and its page."""

    run: SyntheticRun
    folder: Path
    html: str


def make_page(root: Path, truth_known: bool = True, faults: tuple[str, ...] = (), folder: str = "data") -> Page:
    synthetic = SyntheticRun(root / folder, truth_known, faults)
    out = root / "out"
    out.mkdir()
    run(synthetic.inputs, out, SETTINGS, SilentLogger(), **ASSETS["curation_report"].options)
    return Page(synthetic, out, (out / "index.html").read_text(encoding="utf-8"))
