"""The assets that use the curated data and the score model: fine-tuned models, policies and their benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.stages.comparisons import policy_comparisons, subset_comparisons


def finetuned_models_assets(profile: Profile) -> Iterator[Asset]:
    for name in profile.curated_subsets.subsets:
        yield Asset(
            name=f"clip_{name}",
            stage="finetuned_models",
            description=f"CLIP fine-tuned on the captions of {name}",
            function="finetuned_models.finetune_clip:run",
            inputs=(f"subset_{name}", "image_text_pairs", "base_models"),
            options={"subset": name},
            settings=tuple(f"finetuned_models.{key}" for key in ("seeds", "parallel_seeds", "clip")),
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
                f"finetuned_models.{key}"
                for key in ("seeds", "parallel_seeds", "vlm_captions", "vlm_instructions", "max_length")
            ),
            gpu=True,
        )


POLICIES = {
    "rl_policy": "GRPO with rule and score-model rewards",
    "rl_policy_rules_only": "GRPO with rule rewards alone",
}


def rl_policy_assets(profile: Profile) -> Iterator[Asset]:
    subset = profile.policy_start
    start = f"vlm_{subset}"
    yield Asset(
        name="reasoning_model",
        stage="rl_policy",
        description="the fine-tuned VLM after training on reasoning answers; selects the prompts",
        function="rl_policy.reasoning_model:run",
        inputs=(start, f"subset_{subset}", "image_text_pairs", "instruction_samples", "score_model"),
        options={"start_from": start, "subset": subset},
        settings=(
            "preference_data.heldout_share",
            *(f"rl_policy.{key}" for key in ("reasoning", "reasoning_samples", "prompts", "heldout_prompts")),
        ),
        gpu=True,
    )
    watch = profile.rl_policy.watch
    benchmark = ("benchmark_sets",) if watch and watch.gold == "benchmark" else ()
    for name, description in POLICIES.items():
        yield Asset(
            name=name,
            stage="rl_policy",
            description=description,
            function="rl_policy.train_grpo:run",
            inputs=("reasoning_model", "instruction_samples", "score_model", *benchmark),
            options={"policy": name, "score_reward": name == "rl_policy"},
            settings=("rl_policy",),
            sources=(watch.gold_model,) if watch and watch.gold_model else (),
            gpu=True,
        )


def benchmarks_assets(profile: Profile) -> Iterator[Asset]:
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
        settings=(*figures, *rows, "benchmarks.max_new_tokens", "benchmarks.served", "benchmarks.reply_boxes"),
        gpu=True,
    )
    answering = profile.best_of_n_vlm
    by_policy = answering in POLICIES
    vlm = answering if by_policy else f"vlm_{answering}"
    yield Asset(
        name="best_of_n_benchmark",
        stage="benchmarks",
        description="accuracy of each selector over N answers",
        function="benchmarks.best_of_n:run",
        inputs=("benchmark_sets", vlm, "score_model", "base_models"),
        options={"vlm": vlm, "policy": by_policy},
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
