"""The assets from source files to curated subsets: what makes and selects the data."""

from __future__ import annotations

from collections.abc import Iterator

from rsqa_pipeline.forgotten import forgotten_sources
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset

TABLE_CHECKS = ("great_expectations", "rows_add_up", "few_quarantined")
PAIR_CHECKS = ("great_expectations", "rows_add_up", "families_counted")


def source_pairs_assets(profile: Profile) -> Iterator[Asset]:
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
        sources=(pairs.benchmarks.paths if pairs.benchmarks else ()) + forgotten_sources(),
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
        sources=pairs.captions.paths + duplicates + forgotten_sources(),
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
        sources=(pairs.instructions.paths if pairs.instructions else ()) + duplicates + forgotten_sources(),
        records="image_text_sample",
        checks=TABLE_CHECKS,
    )


def tiny_models_assets(profile: Profile) -> Iterator[Asset]:
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


def preference_data_assets(profile: Profile) -> Iterator[Asset]:
    preferences = profile.preference_data
    yield Asset(
        name="text_preferences",
        stage="preference_data",
        description="text-only pairs for the head",
        function="preference_data.text_preferences:run",
        settings=("preference_data",),
        sources=preferences.outside_paths("text") + forgotten_sources(),
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
        sources=preferences.outside_paths("caption") + forgotten_sources(),
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
        sources=preferences.outside_paths("instruction") + forgotten_sources(),
        records="preference_pair",
        checks=PAIR_CHECKS,
        families=("rs_specific",) if preferences.rs_specific else (),
        gpu=True,
    )


def score_model_assets(profile: Profile) -> Iterator[Asset]:
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


def curated_subsets_assets(profile: Profile) -> Iterator[Asset]:
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
