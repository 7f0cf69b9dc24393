"""The size of every asset of a profile: which model does what to how many rows."""

from __future__ import annotations

from collections.abc import Callable

from rsqa_pipeline.profile import Profile, VlmStep
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.profile.preference_data import BASE_VLM
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.sizing.flops import Trained
from rsqa_pipeline.sizing.hardware import Card
from rsqa_pipeline.sizing.lengths import Counts, assumptions, lengths_of
from rsqa_pipeline.sizing.model_shape import VlmShape, clip_shape, vlm_shape
from rsqa_pipeline.sizing.work import Machine, Rows, Size, generate, mixed, run_clip, score, train_clip, train_vlm
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset

GENERATION_BATCH = 32
"""Replies that the base VLM writes at once for preference data."""
TASKS = 6
"""Benchmark tasks that a VLM answers."""
ROW_BYTES = 250
"""Of a table's row, compressed, without its image."""


def sizes_of(profile: Profile, names: list[str], card: Card) -> dict[str, Size]:
    """The size of the named assets.

    Raises:
        UsageError: the shape of a model is unknown.
    """
    sizing, assets = Sizing(profile, card), assets_of(profile)
    return {name: sizing.of(assets[name]) for name in names}


class Sizing:
    """Estimates from a profile alone; nothing is read but the configurations of local models."""

    def __init__(self, profile: Profile, card: Card) -> None:
        found, models = assumptions(), profile.tiny_models
        self.profile = profile
        self.counts = Counts.of(profile, found)
        self.lengths = lengths_of(profile, found)
        self.vlm = vlm_shape(models.vlm)
        self.scorer = vlm_shape(models.scorer or models.vlm)
        self.clip = clip_shape(models.clip)
        weight_bytes = 2 if profile.compute.dtype == "bfloat16" else 4
        self.machine = Machine(card, found.used_share, weight_bytes, profile.compute.device == "cpu")
        self.caption = self.lengths.caption + found.template + found.caption_prompt
        self.instruction = self.lengths.question + self.lengths.answer + found.template
        self.prompt = self.lengths.question + found.template
        launch = profile.compute.launch
        at = launch.index("--num_processes") + 1 if "--num_processes" in launch else None
        self.processes = int(launch[at]) if at is not None else 1

    def of(self, asset: Asset) -> Size:
        """Tables without a model have rows and disk alone."""
        by_module: dict[str, Callable[[Asset], Size]] = {
            "source_pairs.image_text_pairs": lambda _: self._stored(self.counts.images, self.counts.images),
            "source_pairs.instruction_samples": lambda _: self._stored(self.profile.source_pairs.instruction_samples),
            "source_pairs.benchmark_sets": lambda _: self._stored(self._items * (TASKS + 2)),
            "tiny_models.base_models": lambda _: Size(disk=self._models_disk),
            "preference_data.text_preferences": lambda _: self._table(self.counts.text_pairs),
            "preference_data.caption_preferences": lambda _: self._caption_preferences(),
            "preference_data.instruction_preferences": lambda _: self._instruction_preferences(),
            "score_model.training.train": self._phase,
            "score_model.evaluation.evaluate": lambda _: self._score_report(),
            "curated_subsets.scoring.corpus_scores": self._corpus_scores,
            "curated_subsets.selection.subset": self._subset,
            "curated_subsets.drift": lambda _: self._drift(),
            "finetuned_models.finetune_clip": self._clip_tuned,
            "finetuned_models.finetune_vlm": self._vlm_tuned,
            "rl_policy.reasoning_model": lambda _: self._reasoning(),
            "rl_policy.train_grpo": self._grpo,
            "benchmarks.clip_benchmark": lambda _: self._clip_benchmark(),
            "benchmarks.vlm_benchmark": lambda _: self._vlm_benchmark(),
            "benchmarks.best_of_n": lambda _: self._best_of_n(),
            "benchmarks.reward_bench": lambda _: self._reward_bench(),
            "benchmarks.curation_curve": lambda _: self._curve(),
        }
        sized = by_module.get(asset.module)
        return sized(asset) if sized else Size()

    @property
    def _items(self) -> int:
        return self.profile.source_pairs.benchmark_items

    @property
    def _seeds(self) -> int:
        return len(self.profile.finetuned_models.seeds)

    @property
    def _models_disk(self) -> float:
        own = {self.profile.tiny_models.vlm, self.profile.tiny_models.scorer or self.profile.tiny_models.vlm}
        return (len(own) * self.vlm.weights + self.clip.weights) * self.machine.weight_bytes

    def _stored(self, rows: float, images: float | None = None) -> Size:
        return Size(rows, disk=rows * ROW_BYTES + (rows if images is None else images) * self.lengths.image_bytes)

    def _table(self, rows: float) -> Size:
        return Size(rows, disk=rows * ROW_BYTES)

    def _image(self, shape: VlmShape, context: int) -> int:
        return min(shape.image_tokens(self.lengths.side), context // 2)

    # preference data: the models behind a server run elsewhere and are not counted

    def _caption_preferences(self) -> Size:
        settings = self.profile.preference_data
        images = settings.caption_images if BASE_VLM in settings.captioners else 0
        share = min(1.0, self.counts.caption_texts / len(settings.captioners))
        return self._table(self.counts.caption_pairs) + self._written(images * share, 1, self.lengths.caption)

    def _instruction_preferences(self) -> Size:
        settings = self.profile.preference_data
        asked = settings.instruction_samples if BASE_VLM in settings.answerers else 0
        specific = settings.rs_specific
        more = specific.images if specific and BASE_VLM in specific.answerers else 0
        return (
            self._table(self.counts.instruction_pairs)
            + self._written(asked, 2, self.lengths.answer)
            + (self._written(more, 1, self.lengths.answer))
        )

    def _written(self, images: float, replies: int, new_tokens: float) -> Size:
        rows = Rows(images, self._image(self.vlm, 2048), replies, self.prompt)
        return generate(self.vlm, rows, new_tokens, GENERATION_BATCH, self.machine) if images else Size()

    # score model

    def _phase(self, asset: Asset) -> Size:
        settings = self.profile.score_model
        phase, rows = self._phase_rows(asset.name)
        if phase is None:
            return Size(disk=self.scorer.weights * self.machine.weight_bytes)
        trained: set[Trained] = set(phase.train)
        weights = self.scorer.text.width + (self.scorer.vision_weights if "vision" in trained else 0)
        weights += self.scorer.language_weights if "language" in trained else 0
        if phase.lora:
            weights = self.scorer.lora(phase.lora.rank)
        per_pass = phase.batch_size / self.processes * rows.count / max(1.0, self._pairs(rows))
        if settings.tokens_per_pass:
            per_pass = min(per_pass, settings.tokens_per_pass / rows.tokens)
        size = train_vlm(
            self.scorer, rows, _epochs(phase, self._pairs(rows)), per_pass, trained, self.machine,
            trained_weights=weights, recomputed=settings.gradient_checkpointing, processes=self.processes,
            split=settings.fsdp, float32_weights=True, head_tokens=0,
        )  # fmt: skip
        return Size(self._pairs(rows), size.tokens, size.flops, size.memory, size.seconds, self.scorer.weights * 4)

    def _phase_rows(self, name: str) -> tuple[ScoreModelPhase | None, Rows]:
        counts, phases = self.counts, self.profile.score_model.phases
        image = self._image(self.scorer, self.profile.score_model.max_length)
        share = 1 - self.profile.preference_data.heldout_share
        text = Rows(counts.text_pairs * share, 0, 2, self.instruction)
        per_image = max(1, counts.caption_texts - 1)
        captions = Rows(counts.caption_pairs * share / per_image, image, counts.caption_texts, self.caption)
        instructions = Rows(counts.instruction_pairs * share, image, 2, self.instruction)
        if name == "score_head":
            return phases.text, text
        if name == "caption_score_model":
            return phases.caption, captions
        kinds = phases.instruction.pairs if phases.instruction else []
        parts = {"text": text, "caption": captions, "instruction": instructions}
        return phases.instruction, mixed([parts[kind] for kind in kinds] or [instructions])

    @staticmethod
    def _pairs(rows: Rows) -> float:
        return rows.count * max(1.0, rows.texts - 1)

    def _score_report(self) -> Size:
        share = self.profile.preference_data.heldout_share / (1 - self.profile.preference_data.heldout_share)
        total = Size()
        for name in ("caption_score_model", "score_model"):
            rows = self._phase_rows(name)[1]
            total += self._scored(Rows(rows.count * share, rows.image_tokens, rows.texts, rows.text_tokens))
        return total

    def _scored(self, rows: Rows) -> Size:
        return score(self.scorer, rows, self.profile.compute.batch_tokens, self.machine)

    # curated subsets

    def _corpus_scores(self, asset: Asset) -> Size:
        captions, instructions = self.counts.corpus_captions, self.counts.corpus_instructions
        if asset.name == "clip_scores":
            said = (captions * self.lengths.caption + instructions * (self.lengths.question + self.lengths.answer)) / (
                captions + instructions
            )
            batch = self.profile.curated_subsets.batch_size
            size = run_clip(
                self.clip, captions + instructions, captions + instructions, min(said, self.clip.context), batch,
                self.machine,
            )  # fmt: skip
            return size + Size(disk=size.samples * ROW_BYTES / 2)
        image = self._image(self.scorer, self.profile.score_model.max_length)
        size = self._scored(Rows(captions, image, 1, self.caption))
        more = self._scored(Rows(instructions, image, 1, self.instruction))
        samples = float(captions + instructions)
        both = size + more
        return Size(samples, both.tokens, both.flops, both.memory, both.seconds, samples * ROW_BYTES / 2)

    def _kept(self, subset: str) -> tuple[float, float]:
        rule = self.profile.curated_subsets.subsets[subset]
        return (
            self.counts.corpus_captions * _fraction(rule, "caption_fraction"),
            self.counts.corpus_instructions * _fraction(rule, "instruction_fraction"),
        )

    def _subset(self, asset: Asset) -> Size:
        kept = sum(self._kept(asset.options["subset"]))
        corpus = self.counts.corpus_captions + self.counts.corpus_instructions
        return Size(kept, disk=corpus * 30)

    def _drift(self) -> Size:
        samples = min(self.profile.curated_subsets.drift.samples, self.counts.corpus_captions)
        image = self._image(self.scorer, self.profile.score_model.max_length)
        return self._scored(Rows(samples, image, 1, self.caption))

    # fine-tuned models

    def _clip_tuned(self, asset: Asset) -> Size:
        step, captions = self.profile.finetuned_models.clip, self._kept(asset.options["subset"])[0]
        said = min(self.lengths.caption + 2, self.clip.context)
        size = train_clip(self.clip, captions, said, _epochs(step, captions), step, self.processes, self.machine)
        return size.times(self._seeds, self.clip.weights * self.machine.weight_bytes)

    def _vlm_tuned(self, asset: Asset) -> Size:
        settings = self.profile.finetuned_models
        captions, instructions = self._kept(asset.options["subset"])
        size = self._sft(captions, self.caption, settings.vlm_captions)
        replayed = settings.vlm_instructions.caption_replay * captions
        text = (instructions * self.instruction + replayed * self.caption) / max(1.0, instructions + replayed)
        size += self._sft(instructions + replayed, text, settings.vlm_instructions)
        size = Size(captions + instructions, size.tokens, size.flops, size.memory, size.seconds)
        return size.times(self._seeds, self.vlm.weights * self.machine.weight_bytes)

    def _sft(self, samples: float, text: float, step: VlmStep) -> Size:
        trained: set[Trained] = set()
        weights = 0
        for part in step.train:
            trained.add("language" if part == "embeddings" else part)
        weights += self.vlm.connector * ("connector" in trained)
        weights += self.vlm.language_weights * ("language" in trained)
        weights += self.vlm.lora(step.lora_rank) if step.lora_rank and "lora" in trained else 0
        rows = Rows(samples, self._image(self.vlm, self.profile.finetuned_models.max_length), 1, text)
        return train_vlm(
            self.vlm, rows, _epochs(step, samples), step.batch_size, trained, self.machine,
            trained_weights=weights, recomputed=not self.machine.on_cpu,
        )  # fmt: skip

    # policies

    def _language_only(self, rows: Rows, step: Optimizer, head_tokens: float | None = None) -> Size:
        return train_vlm(
            self.vlm, rows, _epochs(step, rows.count), step.batch_size, {"language"}, self.machine,
            trained_weights=self.vlm.language_weights, recomputed=not self.machine.on_cpu, head_tokens=head_tokens,
        )  # fmt: skip

    def _reasoning(self) -> Size:
        settings = self.profile.rl_policy
        image = self._image(self.vlm, 2048)
        learned = settings.reasoning_samples * (1 + settings.reasoning.caption_replay)
        rows = Rows(learned, image, 1, self.prompt + self.lengths.reasoning)
        size = self._language_only(rows, settings.reasoning) if learned else Size()
        return size + Size(disk=self.vlm.weights * self.machine.weight_bytes)

    def _grpo(self, asset: Asset) -> Size:
        settings = self.profile.rl_policy
        image = self._image(self.vlm, 2048)
        new = min(settings.sampling.max_new_tokens, self.lengths.reasoning)
        replies = settings.prompts * settings.rollouts * settings.grpo.epochs
        written = Rows(replies, image, 1, self.prompt)
        size = generate(self.vlm, written, new, settings.grpo.batch_size, self.machine)
        learned = Rows(settings.prompts * settings.rollouts, image, 1, self.prompt + new)
        step = self._language_only(learned, settings.grpo, head_tokens=new)
        reference = self.vlm.weights * self.machine.weight_bytes * (settings.kl > 0)
        scorer = self.scorer.weights * self.machine.weight_bytes
        size += Size(0, step.tokens, step.flops, step.memory + reference + scorer, step.seconds)
        answered = 2.0 * settings.heldout_prompts
        if settings.watch:
            steps = replies / (settings.grpo.batch_size * settings.grpo.gradient_accumulation)
            answered += settings.watch.probes * (2 + (settings.grpo.steps or steps) // settings.watch.every)
        held = generate(self.vlm, Rows(answered, image, 1, self.prompt), new, GENERATION_BATCH, self.machine)
        return size + held + Size(disk=self.vlm.weights * self.machine.weight_bytes)

    # benchmarks

    def _clip_benchmark(self) -> Size:
        models = len(self.profile.curated_subsets.subsets) * self._seeds + 1
        batch = self.profile.benchmarks.batch_size
        return run_clip(
            self.clip, 2 * self._items * models, 2 * self._items * models, self.lengths.caption, batch, self.machine
        )

    def _vlm_benchmark(self) -> Size:
        models = len(self.profile.curated_subsets.subsets) * self._seeds + 3
        rows = Rows(models * TASKS * self._items, self._image(self.vlm, 2048), 1, self.prompt)
        new = min(self.profile.benchmarks.max_new_tokens, self.lengths.answer)
        return generate(self.vlm, rows, new, self.profile.benchmarks.batch_size, self.machine)

    def _best_of_n(self) -> Size:
        settings = self.profile.benchmarks.best_of_n
        image = self._image(self.vlm, 2048)
        rows = Rows(TASKS * min(settings.items, self._items), image, max(settings.counts), self.prompt)
        new = min(settings.sampling.max_new_tokens, self.lengths.answer)
        size = generate(self.vlm, rows, new, self.profile.benchmarks.batch_size, self.machine)
        return size + self._scored(Rows(rows.count, image, rows.texts, self.instruction))

    def _reward_bench(self) -> Size:
        image = self._image(self.scorer, self.profile.score_model.max_length)
        return self._scored(Rows(TASKS * self._items, image, 4, self.caption))

    def _curve(self) -> Size:
        captions = self.counts.corpus_captions
        batch = self.profile.benchmarks.batch_size
        return run_clip(self.clip, captions, captions, self.lengths.caption, batch, self.machine)


def _epochs(step: Optimizer, samples: float) -> float:
    if step.steps is None or not samples:
        return step.epochs
    return step.steps * step.batch_size * step.gradient_accumulation / samples


def _fraction(rule: SubsetRule, name: str) -> float:
    """The kept share; for rules of rules the largest that they can keep."""
    shares = [_fraction(part, name) for part in rule.parts]
    if rule.all_of:
        return min(shares)
    return min(1.0, sum(shares)) if shares else float(getattr(rule, name))
