"""The table of stages: every asset, in order, with what it reads, what makes it and which settings it sees.

The Dagster assets, ``dvc.yaml`` and the README's list are checked against this table. A *stage* is a folder of the
library, a Dagster group and a section of the profile; an *asset* is one output of it, with a folder
``data/<profile>/<stage>/<asset>`` and a DVC stage of its own, so that a change reruns no more than it must.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger

StageFunction = Callable[[Mapping[str, Path], Path, Profile, RunLogger], Metrics]

SUBSETS = ("all", "random_30", "clip_score_30", "score_model_30")

STAGES = {
    "source_pairs": "read, validate, hash and split image-text data",
    "tiny_models": "the VLM and the CLIP that everything starts from",
    "preference_data": "candidate texts, judge's marks, chosen/rejected pairs",
    "score_model": "learn a scalar score from the pairs, phase by phase",
    "curated_subsets": "score the corpus, keep the best part, and the baselines' parts",
    "finetuned_models": "one CLIP and one VLM for each subset",
    "rl_policy": "GRPO with the score model as part of the reward",
    "benchmarks": "classification, retrieval, VQA, grounding, best of N",
    "report": "tables, plots, galleries and the lineage of all of it",
}


@dataclass(frozen=True)
class Asset:
    """One output of the pipeline."""

    name: str
    stage: str
    description: str
    inputs: tuple[str, ...]
    function: str
    """``module:function`` below ``rsqa_pipeline``."""
    sections: tuple[str, ...]
    """Sections of the profile that it sees, besides ``seed`` and ``compute``."""
    reads_source: str | None = None
    """Field of ``source_pairs`` naming the outside file it reads."""
    makes_pairs: Literal["text", "caption", "instruction"] | None = None
    """Kind of preference pairs that it makes, and may import."""
    gpu: bool = False
    records: str | None = None
    """Record type of its main table, for the data-quality checks."""

    @property
    def subset(self) -> str:
        """The subset in the name of a per-subset asset."""
        return next(s for s in SUBSETS if self.name.endswith("_" + s))

    def folder(self, profile: Profile) -> Path:
        return profile.data / self.stage / self.name

    @property
    def module(self) -> str:
        """Module of its function, below ``rsqa_pipeline``."""
        return self.function.partition(":")[0]

    def load(self) -> StageFunction:
        """Imports its function."""
        module = importlib.import_module(f"rsqa_pipeline.{self.module}")
        function: StageFunction = getattr(module, self.function.partition(":")[2])
        return function


def _assets() -> list[Asset]:
    pairs, samples, bench, base = "image_text_pairs", "instruction_samples", "benchmark_sets", "base_models"
    corpus = (pairs, samples)
    models = tuple(f"clip_{s}" for s in SUBSETS), tuple(f"vlm_{s}" for s in SUBSETS)
    source, prefs, score, subsets = "source_pairs", "preference_data", "score_model", "curated_subsets"
    tuned, rl, marks = "finetuned_models", "rl_policy", "benchmarks"
    table = [
        Asset(
            bench,
            source,
            "test items on scenes never trained on",
            (),
            "source_pairs.benchmark_sets:run",
            (source,),
            "benchmarks",
            records="benchmark_item",
        ),
        Asset(
            pairs,
            source,
            "captions with their images, validated and split by scene",
            (bench,),
            "source_pairs.image_text_pairs:run",
            (source,),
            "captions",
            records="image_text_sample",
        ),
        Asset(
            samples,
            source,
            "question-answer samples to fine-tune on",
            (bench,),
            "source_pairs.instruction_samples:run",
            (source,),
            "instructions",
            records="image_text_sample",
        ),
        Asset(
            base,
            "tiny_models",
            "the VLM and CLIP to start from: shipped, from a hub, or warm-started here",
            (pairs,),
            "tiny_models.base_models:run",
            ("tiny_models",),
            gpu=True,
        ),
        Asset(
            "text_preferences",
            prefs,
            "text-only pairs for the head",
            (),
            "preference_data.text_preferences:run",
            (prefs,),
            makes_pairs="text",
            records="preference_pair",
        ),
        Asset(
            "caption_preferences",
            prefs,
            "captions by several captioners, judged on five dimensions",
            (pairs, base),
            "preference_data.caption_preferences:run",
            (prefs,),
            makes_pairs="caption",
            gpu=True,
            records="preference_pair",
        ),
        Asset(
            "instruction_preferences",
            prefs,
            "close- and open-ended answers against their reference",
            (samples, base),
            "preference_data.instruction_preferences:run",
            (prefs,),
            makes_pairs="instruction",
            gpu=True,
            records="preference_pair",
        ),
        Asset(
            "score_head",
            score,
            "phase 1: the head, on text pairs",
            ("text_preferences", base),
            "score_model.training.train:run_text_phase",
            (score,),
            gpu=True,
        ),
        Asset(
            "caption_score_model",
            score,
            "phase 2: vision and head, on caption pairs",
            ("caption_preferences", "score_head"),
            "score_model.training.train:run_caption_phase",
            (score,),
            gpu=True,
        ),
        Asset(
            "score_model",
            score,
            "phase 3: language and head, on instruction pairs, caption pairs replayed",
            ("instruction_preferences", "caption_preferences", "text_preferences", "caption_score_model"),
            "score_model.training.train:run_instruction_phase",
            (score,),
            gpu=True,
        ),
        Asset(
            "score_model_report",
            score,
            "held-out preference accuracy, against CLIP score and chance",
            ("score_model", "caption_preferences", "instruction_preferences", base),
            "score_model.evaluation.evaluate:run",
            (score, marks),
            gpu=True,
        ),
        Asset(
            "pair_scores",
            subsets,
            "score of every corpus sample by the score model",
            ("score_model", *corpus),
            "curated_subsets.scoring.corpus_scores:run_score_model",
            (subsets,),
            gpu=True,
            records="scored_sample",
        ),
        Asset(
            "clip_scores",
            subsets,
            "CLIP score of every corpus sample",
            (base, *corpus),
            "curated_subsets.scoring.corpus_scores:run_clip",
            (subsets,),
            gpu=True,
            records="scored_sample",
        ),
        *(
            Asset(
                f"subset_{s}",
                subsets,
                f"ids kept by the rule {s}",
                ("pair_scores", "clip_scores", *corpus),
                f"curated_subsets.selection.subset:run_{s}",
                (subsets,),
                records="subset",
            )
            for s in SUBSETS
        ),
        Asset(
            "score_drift",
            subsets,
            "how far the score model's last phase moved its scores",
            ("pair_scores", "caption_score_model", pairs),
            "curated_subsets.drift:run",
            (subsets,),
            gpu=True,
        ),
        *(
            Asset(
                f"clip_{s}",
                tuned,
                f"CLIP fine-tuned on the captions of {s}",
                (f"subset_{s}", pairs, base),
                "finetuned_models.finetune_clip:run",
                (tuned,),
                gpu=True,
            )
            for s in SUBSETS
        ),
        *(
            Asset(
                f"vlm_{s}",
                tuned,
                f"VLM fine-tuned on the captions, then the instructions of {s}",
                (f"subset_{s}", *corpus, base),
                "finetuned_models.finetune_vlm:run",
                (tuned,),
                gpu=True,
            )
            for s in SUBSETS
        ),
        Asset(
            "rl_policy",
            rl,
            "GRPO with rule and score-model rewards",
            ("vlm_score_model_30", samples, "score_model"),
            "rl_policy.train_grpo:run",
            (rl,),
            gpu=True,
        ),
        Asset(
            "rl_policy_rules_only",
            rl,
            "GRPO with rule rewards alone",
            ("vlm_score_model_30", samples, "score_model"),
            "rl_policy.train_grpo:run_rules_only",
            (rl,),
            gpu=True,
        ),
        Asset(
            "clip_benchmark",
            marks,
            "zero-shot classification and retrieval of every CLIP",
            (bench, base, *models[0]),
            "benchmarks.clip_benchmark:run",
            (marks,),
            gpu=True,
        ),
        Asset(
            "vlm_benchmark",
            marks,
            "VQA, grounding and multiple choice of every VLM and policy",
            (bench, base, *models[1], "rl_policy", "rl_policy_rules_only"),
            "benchmarks.vlm_benchmark:run",
            (marks,),
            gpu=True,
        ),
        Asset(
            "best_of_n_benchmark",
            marks,
            "accuracy of each selector over N answers",
            (bench, "vlm_score_model_30", "score_model", base),
            "benchmarks.best_of_n:run",
            (marks,),
            gpu=True,
        ),
        Asset(
            "curation_curve",
            marks,
            "a cheap proxy's figure over the fraction kept, for each ranking",
            ("pair_scores", "clip_scores", pairs, base, bench),
            "benchmarks.curation_curve:run",
            (marks,),
            gpu=True,
        ),
    ]
    everything = tuple(asset.name for asset in table)
    table.append(
        Asset(
            "curation_report",
            "report",
            "one HTML page: tables, plots, galleries, versions",
            everything,
            "report.curation_report:run",
            ("description", "report", subsets),
        )
    )
    table.append(
        Asset(
            "lineage_manifest",
            "report",
            "what made each output: versions, settings, code, runs",
            (*everything, "curation_report"),
            "lineage.bundle:run",
            ("report",),
        )
    )
    return table


ASSETS: dict[str, Asset] = {asset.name: asset for asset in _assets()}


def in_stage(stage: str) -> list[Asset]:
    return [asset for asset in ASSETS.values() if asset.stage == stage]


def downstream(name: str) -> list[str]:
    """Every asset that depends on ``name``, directly or not, in the table's order."""
    reached = {name}
    for asset in ASSETS.values():
        if reached.intersection(asset.inputs):
            reached.add(asset.name)
    return [other for other in ASSETS if other in reached and other != name]
