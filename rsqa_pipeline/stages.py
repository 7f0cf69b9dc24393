"""The pipeline, in order: every stage, and every asset with what it reads, what makes it and which settings it sees.

A *stage* is a folder of the library, a section of the profile and a Dagster group. An *asset* is one output of a stage:
a folder ``data/<profile>/<stage>/<asset>``, a Dagster asset and a DVC stage. The table is built from the profile: each
subset, with the models fine-tuned on it, is a line of the profile. Dagster assets, ``dvc.yaml`` and the output of
``rsqa stages`` are generated from this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rsqa_pipeline.asset import Asset, Stage
from rsqa_pipeline.comparisons import policy_comparisons, subset_comparisons
from rsqa_pipeline.profile import Profile

STAGES = {
    stage.name: stage
    for stage in (
        Stage(name="source_pairs", purpose="read, validate, hash and split image-text data", owner="team:data"),
        Stage(
            name="tiny_models",
            purpose="the VLM and the CLIP that everything starts from",
            owner="team:modelling",
            tracked=True,
            retried=True,
        ),
        Stage(
            name="preference_data",
            purpose="candidate texts, judge's marks, chosen/rejected pairs",
            owner="team:data",
            retried=True,
        ),
        Stage(
            name="score_model",
            purpose="learn a scalar score from the pairs, phase by phase",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="curated_subsets",
            purpose="score the corpus, keep the best part, and the baselines' parts",
            owner="team:data",
        ),
        Stage(
            name="finetuned_models",
            purpose="one CLIP and one VLM per subset and seed",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="rl_policy",
            purpose="GRPO with the score model as part of the reward",
            owner="team:modelling",
            tracked=True,
        ),
        Stage(
            name="benchmarks",
            purpose="classification, retrieval, VQA, grounding, best of N",
            owner="team:evaluation",
            tracked=True,
        ),
        Stage(name="report", purpose="tables, plots, galleries and the lineage of all of it", owner="team:evaluation"),
    )
}

TABLE_CHECKS = ("great_expectations", "rows_add_up", "few_quarantined")
PAIR_CHECKS = ("great_expectations", "rows_add_up", "families_counted")


def assets_of(profile: Profile) -> dict[str, Asset]:
    """Every asset of a profile by name, in an order in which inputs come first."""
    table: list[Asset] = []
    for stage in (
        _source_pairs,
        _tiny_models,
        _preference_data,
        _score_model,
        _curated_subsets,
        _finetuned_models,
        _rl_policy,
        _benchmarks,
    ):
        table += stage(profile)
    table += _report(table)
    if profile.source_pairs.captions_alone:
        table = _with_captions_alone(table)
    return {asset.name: asset for asset in table}


STAGES_BEYOND_CAPTIONS = ("finetuned_models", "rl_policy", "benchmarks")
ASSETS_BEYOND_CAPTIONS = ("benchmark_sets", "instruction_samples", "instruction_preferences", "curation_report")
"""What a profile with captions alone does not have: nothing to answer and nothing to measure on."""


def _with_captions_alone(table: list[Asset]) -> list[Asset]:
    """The assets that captions alone can make, without the others among their inputs."""
    kept = [
        asset
        for asset in table
        if asset.stage not in STAGES_BEYOND_CAPTIONS and asset.name not in ASSETS_BEYOND_CAPTIONS
    ]
    names = {asset.name for asset in kept}
    return [replace(asset, inputs=tuple(name for name in asset.inputs if name in names)) for asset in kept]


def _source_pairs(profile: Profile) -> Iterator[Asset]:
    pairs = profile.source_pairs
    duplicates = pairs.duplicates.paths if pairs.duplicates else ()
    limits = ("max_image_pixels", "max_image_bytes", "max_quarantined_share")
    checked = tuple(f"source_pairs.{limit}" for limit in limits)
    removed = ("source_pairs.duplicates", *(("compute",) if pairs.duplicates else ()))  # models embed what is compared
    yield Asset(
        name="benchmark_sets",
        stage="source_pairs",
        description="test items on scenes never trained on",
        function="source_pairs.benchmark_sets:run",
        # which files the other sources read decides which rows of a file without splits may be test items
        settings=(
            "source_pairs.benchmarks",
            "source_pairs.benchmark_items",
            "source_pairs.captions.path",
            "source_pairs.instructions.path",
            *checked,
        ),
        sources=pairs.benchmarks.paths if pairs.benchmarks else (),
        records="benchmark_item",
        checks=TABLE_CHECKS,
    )
    yield Asset(
        name="image_text_pairs",
        stage="source_pairs",
        description="captions with their images, validated and split by scene",
        function="source_pairs.image_text_pairs:run",
        inputs=("benchmark_sets",),
        settings=("source_pairs.captions", "source_pairs.preference_share", *removed, *checked),
        sources=pairs.captions.paths + duplicates,
        records="image_text_sample",
        checks=TABLE_CHECKS,
    )
    yield Asset(
        name="instruction_samples",
        stage="source_pairs",
        description="question-answer samples to fine-tune on",
        function="source_pairs.instruction_samples:run",
        inputs=("benchmark_sets",),
        settings=(
            "source_pairs.instructions",
            "source_pairs.instruction_samples",
            "source_pairs.preference_share",
            *removed,
            *checked,
        ),
        sources=(pairs.instructions.paths if pairs.instructions else ()) + duplicates,
        records="image_text_sample",
        checks=TABLE_CHECKS,
    )


def _tiny_models(profile: Profile) -> Iterator[Asset]:
    yield Asset(
        name="base_models",
        stage="tiny_models",
        description="the VLM and CLIP to start from: shipped, from a hub, or warm-started here",
        function="tiny_models.base_models:run",
        inputs=("image_text_pairs",),
        settings=("tiny_models",),
        sources=profile.tiny_models.paths,
        gpu=True,
    )


def _preference_data(profile: Profile) -> Iterator[Asset]:
    preferences = profile.preference_data
    yield Asset(
        name="text_preferences",
        stage="preference_data",
        description="text-only pairs for the head",
        function="preference_data.text_preferences:run",
        settings=("preference_data",),
        sources=preferences.outside_paths("text"),
        records="preference_pair",
        checks=PAIR_CHECKS,
        families=("text",),
    )
    yield Asset(
        name="caption_preferences",
        stage="preference_data",
        description="captions by several captioners, judged on five dimensions",
        function="preference_data.caption_preferences:run",
        inputs=("image_text_pairs", "base_models"),
        settings=("preference_data",),
        sources=preferences.outside_paths("caption"),
        records="preference_pair",
        checks=PAIR_CHECKS,
        families=("caption",),
        gpu=True,
    )
    yield Asset(
        name="instruction_preferences",
        stage="preference_data",
        description="close- and open-ended answers against their reference",
        function="preference_data.instruction_preferences:run",
        inputs=("instruction_samples", "base_models"),
        settings=("preference_data",),
        sources=preferences.outside_paths("instruction"),
        records="preference_pair",
        checks=PAIR_CHECKS,
        families=("rs_specific",) if preferences.rs_specific else (),
        gpu=True,
    )


def _score_model(profile: Profile) -> Iterator[Asset]:
    training = tuple(
        f"score_model.{key}"
        for key in (
            "activation",
            "max_length",
            "tokens_per_pass",
            "gradient_checkpointing",
            "fsdp",
            "state_steps",
        )
    )
    yield Asset(
        name="score_head",
        stage="score_model",
        description="phase 1: the head, on text pairs",
        function="score_model.training.train:run_text_phase",
        inputs=("text_preferences", "base_models"),
        settings=(*training, "score_model.phases.text"),
        gpu=True,
    )
    yield Asset(
        name="caption_score_model",
        stage="score_model",
        description="phase 2: vision and head, on caption pairs",
        function="score_model.training.train:run_caption_phase",
        inputs=("caption_preferences", "score_head"),
        settings=(*training, "score_model.phases.caption"),
        gpu=True,
    )
    yield Asset(
        name="score_model",
        stage="score_model",
        description="phase 3: language and head, on instruction pairs, caption pairs replayed",
        function="score_model.training.train:run_instruction_phase",
        inputs=("instruction_preferences", "caption_preferences", "text_preferences", "caption_score_model"),
        settings=(
            *training,
            "score_model.phases.instruction",
            "score_model.bootstrap_heads",
            "score_model.length_debias",
        ),
        gpu=True,
    )
    yield Asset(
        name="score_model_report",
        stage="score_model",
        description="held-out preference accuracy, against CLIP score and chance",
        function="score_model.evaluation.evaluate:run",
        inputs=("score_model", "caption_preferences", "instruction_preferences", "base_models"),
        settings=("benchmarks.bootstrap_resamples", "benchmarks.batch_size"),
        checks=("probes_pass",),
        gpu=True,
    )


def _curated_subsets(profile: Profile) -> Iterator[Asset]:
    corpus = ("image_text_pairs", "instruction_samples")
    scoring = tuple(f"curated_subsets.{key}" for key in ("batch_size", "shard_rows", "engine", "workers"))
    yield Asset(
        name="pair_scores",
        stage="curated_subsets",
        description="score of every corpus sample by the score model",
        function="curated_subsets.scoring.corpus_scores:run_score_model",
        inputs=("score_model", *corpus),
        settings=(*scoring, "source_pairs.max_quarantined_share"),
        records="scored_sample",
        checks=TABLE_CHECKS,
        gpu=True,
    )
    yield Asset(
        name="clip_scores",
        stage="curated_subsets",
        description="CLIP score of every corpus sample",
        function="curated_subsets.scoring.corpus_scores:run_clip",
        inputs=("base_models", *corpus),
        settings=(*scoring, "curated_subsets.clip_text", "source_pairs.max_quarantined_share"),
        records="scored_sample",
        checks=TABLE_CHECKS,
        gpu=True,
    )
    for name, rule in profile.curated_subsets.subsets.items():
        yield Asset(
            name=f"subset_{name}",
            stage="curated_subsets",
            description=f"ids of the samples that the rule {name} keeps",
            function="curated_subsets.selection.subset:run",
            inputs=("pair_scores", "clip_scores", *corpus),
            options={"subset": name},
            settings=(f"curated_subsets.subsets.{name}",),
            sources=tuple(rule.embedding_files),
            records="subset",
            checks=("great_expectations", "no_group_vanishes"),
        )
    yield Asset(
        name="score_drift",
        stage="curated_subsets",
        description="how far the score model's last phase moved its scores",
        function="curated_subsets.drift:run",
        inputs=("pair_scores", "caption_score_model", "image_text_pairs"),
        settings=("curated_subsets.drift",),
        checks=("score_drift_small",),
        gpu=True,
    )


def _finetuned_models(profile: Profile) -> Iterator[Asset]:
    for name in profile.curated_subsets.subsets:
        yield Asset(
            name=f"clip_{name}",
            stage="finetuned_models",
            description=f"CLIP fine-tuned on the captions of {name}",
            function="finetuned_models.finetune_clip:run",
            inputs=(f"subset_{name}", "image_text_pairs", "base_models"),
            options={"subset": name},
            settings=("finetuned_models.seeds", "finetuned_models.clip"),
            gpu=True,
        )
    for name in profile.curated_subsets.subsets:
        yield Asset(
            name=f"vlm_{name}",
            stage="finetuned_models",
            description=f"VLM fine-tuned on the captions, then the instructions of {name}",
            function="finetuned_models.finetune_vlm:run",
            inputs=(f"subset_{name}", "image_text_pairs", "instruction_samples", "base_models"),
            options={"subset": name},
            settings=tuple(
                f"finetuned_models.{key}" for key in ("seeds", "vlm_captions", "vlm_instructions", "max_length")
            ),
            gpu=True,
        )


POLICIES = {
    "rl_policy": "GRPO with rule and score-model rewards",
    "rl_policy_rules_only": "GRPO with rule rewards alone",
}


def _rl_policy(profile: Profile) -> Iterator[Asset]:
    start = f"vlm_{profile.policy_start}"
    yield Asset(
        name="reasoning_model",
        stage="rl_policy",
        description="the fine-tuned VLM after training on reasoning answers; selects the prompts",
        function="rl_policy.reasoning_model:run",
        inputs=(start, "instruction_samples", "score_model"),
        options={"start_from": start},
        settings=tuple(f"rl_policy.{key}" for key in ("reasoning", "reasoning_samples", "prompts", "heldout_prompts")),
        gpu=True,
    )
    for name, description in POLICIES.items():
        yield Asset(
            name=name,
            stage="rl_policy",
            description=description,
            function="rl_policy.train_grpo:run",
            inputs=("reasoning_model", "instruction_samples", "score_model"),
            options={"policy": name, "score_reward": name == "rl_policy"},
            settings=("rl_policy",),
            gpu=True,
        )


def _benchmarks(profile: Profile) -> Iterator[Asset]:
    subsets = list(profile.curated_subsets.subsets)
    tuned = {family: {name: f"{family}_{name}" for name in subsets} for family in ("clip", "vlm")}
    rows = ("curated_subsets.subsets", "curated_subsets.main", "finetuned_models.seeds")
    figures = ("benchmarks.batch_size", "benchmarks.bootstrap_resamples")
    yield Asset(
        name="clip_benchmark",
        stage="benchmarks",
        description="zero-shot classification and retrieval of every CLIP",
        function="benchmarks.clip_benchmark:run",
        inputs=("benchmark_sets", "base_models", *tuned["clip"].values()),
        options={"models": tuned["clip"], "comparisons": subset_comparisons(profile)},
        settings=(*figures, *rows),
        gpu=True,
    )
    yield Asset(
        name="vlm_benchmark",
        stage="benchmarks",
        description="VQA, grounding and multiple choice of every VLM and policy",
        function="benchmarks.vlm_benchmark:run",
        inputs=("benchmark_sets", "base_models", *tuned["vlm"].values(), *POLICIES),
        options={
            "models": tuned["vlm"],
            "policies": list(POLICIES),
            "comparisons": [*subset_comparisons(profile), *policy_comparisons(profile, POLICIES)],
        },
        settings=(*figures, *rows, "benchmarks.max_new_tokens"),
        gpu=True,
    )
    main = f"vlm_{profile.curated_subsets.main}"
    yield Asset(
        name="best_of_n_benchmark",
        stage="benchmarks",
        description="accuracy of each selector over N answers",
        function="benchmarks.best_of_n:run",
        inputs=("benchmark_sets", main, "score_model", "base_models"),
        options={"vlm": main},
        settings=(*figures, "benchmarks.best_of_n", "finetuned_models.seeds"),
        gpu=True,
    )
    yield Asset(
        name="reward_bench",
        stage="benchmarks",
        description="score model and CLIP score on right texts against texts with one known fault",
        function="benchmarks.reward_bench:run",
        inputs=("benchmark_sets", "score_model", "base_models"),
        settings=figures,
        checks=("rows_add_up",),
        gpu=True,
    )
    yield Asset(
        name="curation_curve",
        stage="benchmarks",
        description="a cheap proxy's figure over the fraction kept, for each ranking",
        function="benchmarks.curation_curve:run",
        inputs=("pair_scores", "clip_scores", "image_text_pairs", "base_models", "benchmark_sets"),
        settings=(*figures, "benchmarks.curve"),
        gpu=True,
    )


def _report(table: list[Asset]) -> Iterator[Asset]:
    everything = tuple(asset.name for asset in table)
    facts = {asset.name: {"stage": asset.stage, "records": asset.records, "inputs": asset.inputs} for asset in table}
    yield Asset(
        name="curation_report",
        stage="report",
        description="one HTML page: tables, plots, galleries, versions",
        function="report.curation_report:run",
        inputs=everything,
        options={"assets": facts},
        settings=("description", "report", "curated_subsets.subsets", "curated_subsets.main", "finetuned_models.seeds"),
    )
    yield Asset(
        name="lineage_manifest",
        stage="report",
        description="what made each output: versions, settings, code, runs",
        function="lineage.bundle:run",
        inputs=(*everything, "curation_report"),
    )
