"""The complete profile as types. A profile file is the only source of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsqa_pipeline.boxes import Order, Unit
from rsqa_pipeline.profile.curated_subsets import POLICY_NAMES, CuratedSubsets, CurationCurve
from rsqa_pipeline.profile.preference_data import PreferenceData, TextModel
from rsqa_pipeline.profile.score_model import ScoreModelSettings
from rsqa_pipeline.profile.source_pairs import Boxes, SourcePairs
from rsqa_pipeline.profile.types import Count, Fraction, NonNegative, Optimizer, Sampling, Section
from rsqa_pipeline.profile.watch import Watch


class Compute(Section):
    """Where models run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: Count = 4096
    """Tokens that the score model scores at once: rows x longest row, including image tokens."""
    launch: list[str] = Field(default=[])
    """Command that starts the training of the score model and of CLIP in several processes, put before
    ``-m module job``: accelerate or torchrun, e.g. ``[accelerate, launch, --multi_gpu, --num_processes, "8"]``. Empty:
    the stage's own process."""


class ScratchSteps(Section):
    """Optimizer steps of each part of the from-scratch recipe."""

    perception_steps: Count
    vlm_steps: Count
    clip_steps: Count


class ScratchRecipe(ScratchSteps):
    """How small models are trained from scratch on the profile's own images: perception first, then language."""

    teacher: str | None = None
    """``efficientnet-lite0`` (extra ``real``), or the folder or hub id of an image encoder, whose features the vision
    towers learn to predict besides the scene class."""
    image_size: Count = 64
    batch_size: Count = 64
    language_batch_size: Count = 24
    """Images per step of the language phase; each has several texts."""
    smoke: ScratchSteps
    """The steps of a run with ``--limit``."""


class TinyModels(Section):
    """The VLM and the CLIP to start from: a folder, a hub id, or ``scratch``."""

    vlm: str
    clip: str
    scorer: str | None = None
    """The VLM that the score model starts from, a folder or a hub id; None: ``vlm``, as in the paper."""
    revision: str | None = None
    trust_remote_code: bool = False
    scratch: ScratchRecipe | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Local folders among the models."""
        teacher = self.scratch.teacher if self.scratch else None
        named = dict.fromkeys((self.vlm, self.clip, self.scorer, teacher))
        return tuple(name for name in named if name and Path(name).is_dir())


class ClipStep(Optimizer):
    """A CLIP's fine-tuning."""

    frozen_vision: bool = False
    """Trains the text tower and both projections alone ("locked-image tuning"). Each image passes the vision tower
    once, so a step costs a fraction."""
    chunk_size: Count | None = None
    """Samples whose activations each process holds at once; None: all of its batch. The contrast stays that of the
    whole batch (gradient caching): memory falls to that of a chunk, and a step costs one forward pass more."""


TrainedPart = Literal["connector", "embeddings", "language", "lora"]
"""``embeddings``: input embeddings and output head. ``language``: all weights of the language model, these included.
``lora``: LoRA on the language model's linear layers, merged at the end."""


class VlmStep(Optimizer):
    """One step of a VLM's fine-tuning: how long and what is trained; the vision tower is frozen."""

    train: list[TrainedPart] = Field(min_length=1)
    lora_rank: Count | None = None
    lora_alpha: Count | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> VlmStep:
        if "lora" in self.train and (self.lora_rank is None or self.lora_alpha is None):
            raise ValueError("train: lora needs lora_rank and lora_alpha")
        if {"language", "lora"} <= set(self.train):
            raise ValueError("train: lora adds to frozen weights, and language trains them; name one of the two")
        return self


class CaptionStep(VlmStep):
    train: list[TrainedPart] = Field(default=["connector"], min_length=1)


class InstructionStep(VlmStep):
    train: list[TrainedPart] = Field(default=["connector", "lora"], min_length=1)
    caption_replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the subset's captions mixed into the instructions, so that captions are not forgotten."""


class FinetunedModels(Section):
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Each fine-tuned model is trained once per seed; benchmarks report the mean with an interval over seeds."""
    parallel_seeds: Count = 1
    """Seeds trained at once, each in a process of its own with its share of the processor's cores: small models do not
    keep many cores busy."""
    clip: ClipStep
    vlm_captions: CaptionStep
    """Step P: captions (paper: only the vision-language connector is trained)."""
    vlm_instructions: InstructionStep
    """Step S: instructions (paper: LoRA on the language model, and the connector, are trained)."""
    max_length: Count
    """Tokens per row of the VLM's training, its image included; a larger image than half of them is made smaller."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> FinetunedModels:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, found {self.seeds}")
        return self


OpenEndedForm = Literal["paper", "graded"]


class ReasoningStep(Optimizer):
    caption_replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the subset's captions mixed into the reasoning answers, in the same format, so that the policy still
    describes images."""


class RlPolicy(Section):
    start_from: str | None = None
    """Subset whose VLM the policies start from; by default ``curated_subsets.main``."""
    reasoning_samples: Annotated[int, Field(ge=0)]
    """Reasoning answers learned before GRPO ("R1"); 0 starts with GRPO ("Zero")."""
    reasoning: ReasoningStep
    prompts: Count
    heldout_prompts: Count
    rollouts: Annotated[int, Field(ge=2)]
    sampling: Sampling
    grpo: Optimizer
    kl: NonNegative
    format_weight: Fraction = 0.3
    accuracy_weight: Fraction = 0.7
    open_ended_beta: Annotated[float, Field(gt=0)] = 0.2
    open_ended_form: OpenEndedForm = "paper"
    """``paper``: no reward at or below the reference's score, so a group of such answers has no gradient. ``graded``:
    half of the reward at the reference, and less the further below."""
    watch: Watch | None = None
    """Monitors of reward hacking; None: none run."""

    @model_validator(mode="after")
    def _kl_is_measured(self) -> RlPolicy:
        if self.watch and self.watch.monitors.kl is not None and self.kl == 0:
            raise ValueError("watch.monitors.kl: without a KL term none is measured; set it to null, or kl above 0")
        return self


class BestOfN(Section):
    vlm: str | None = None
    """Who gives the answers: a subset, for the VLM fine-tuned on it (its first seed), or a policy; by default
    ``curated_subsets.main``."""
    items: Count
    counts: list[Count] = Field(min_length=1)
    sampling: Sampling
    bound: Literal["lower"] | None = None
    """The score model selects by the lower bound of its score, see the rule of a subset."""


class ReplyBoxes(Section):
    unit: Unit | Literal["family"]
    order: Order = "corners"

    def declared(self) -> Boxes | None:
        """Unit and order; None for those of the model's family."""
        return None if self.unit == "family" else Boxes(unit=self.unit, order=self.order)


class Benchmarks(Section):
    batch_size: Count
    max_new_tokens: Count
    bootstrap_resamples: Count
    served: dict[str, TextModel] = Field(default={})
    """Further rows of the VLM benchmark, by name: models behind an OpenAI-compatible server."""
    reply_boxes: dict[str, ReplyBoxes] = Field(default={})
    """How ``base`` and served models write boxes, by row; default: as this project, in pixels of the stored image.
    ``base: {unit: family}`` is the convention of its family, see ``models/families.py``. Served Qwen2-VL:
    ``{unit: 0..1000}``; GeoChat: ``{unit: 0..100}``. A box that does not fit is an unreadable reply."""
    best_of_n: BestOfN
    curve: CurationCurve

    @model_validator(mode="after")
    def _rows_that_can_be_measured(self) -> Benchmarks:
        for name, model in self.served.items():
            if model.server is None:
                raise ValueError(f"benchmarks.served.{name} needs a server")
        if unknown := sorted(set(self.reply_boxes) - {"base", *self.served}):
            raise ValueError(f"benchmarks.reply_boxes: {unknown[0]!r} is neither base nor in benchmarks.served")
        for name in sorted(set(self.reply_boxes) & set(self.served)):
            if self.reply_boxes[name].unit == "family":
                raise ValueError(f"benchmarks.reply_boxes.{name}: the family behind a server is not known; name a unit")
        return self


class ReportSettings(Section):
    gallery_size: Count


class Profile(Section):
    """Everything that a run depends on besides its data and code."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str
    seed: Annotated[int, Field(ge=0)] = 0
    compute: Compute
    tiny_models: TinyModels
    source_pairs: SourcePairs
    preference_data: PreferenceData
    score_model: ScoreModelSettings
    curated_subsets: CuratedSubsets
    finetuned_models: FinetunedModels
    rl_policy: RlPolicy
    benchmarks: Benchmarks
    report: ReportSettings

    @model_validator(mode="after")
    def _fsdp_needs_processes(self) -> Profile:
        if self.score_model.fsdp and not self.compute.launch:
            raise ValueError("score_model.fsdp splits the model over several processes, and compute.launch starts none")
        return self

    @model_validator(mode="after")
    def _policy_starts_from_a_subset(self) -> Profile:
        if self.policy_start not in self.curated_subsets.subsets:
            known = ", ".join(self.curated_subsets.subsets)
            raise ValueError(f"rl_policy.start_from: {self.policy_start!r} is not a subset; known: {known}")
        return self

    @model_validator(mode="after")
    def _best_of_n_has_a_vlm(self) -> Profile:
        known = (*self.curated_subsets.subsets, *POLICY_NAMES)
        if self.best_of_n_vlm not in known:
            found = f"benchmarks.best_of_n.vlm: {self.best_of_n_vlm!r} is neither a subset nor a policy"
            raise ValueError(f"{found}; known: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _no_instruction_pairs_from_captions(self) -> Profile:
        last = self.score_model.phases.instruction
        if self.source_pairs.captions_alone and last is not None and "instruction" in last.pairs:
            raise ValueError(
                "score_model.phases.instruction: there are captions alone; set it to null, or its pairs to [caption]"
            )
        return self

    @model_validator(mode="after")
    def _one_fault_pairs_need_scenes(self) -> Profile:
        if self.preference_data.one_fault_pairs and self.source_pairs.captions.format != "scenes":
            raise ValueError("preference_data.one_fault_pairs needs scenes, whose truth is known; set it to null")
        return self

    @model_validator(mode="after")
    def _gold_is_known(self) -> Profile:
        watch, instructions = self.rl_policy.watch, self.source_pairs.instructions
        if watch and watch.gold == "truth" and instructions and instructions.format != "scenes":
            raise ValueError("rl_policy.watch.gold: truth needs instructions from scenes; use benchmark or score_model")
        return self

    @model_validator(mode="after")
    def _one_way_of_several_processes(self) -> Profile:
        if self.compute.launch and self.finetuned_models.parallel_seeds > 1:
            raise ValueError(
                "finetuned_models.parallel_seeds: compute.launch already divides a training over processes; set it to 1"
            )
        return self

    @property
    def policy_start(self) -> str:
        """Subset whose VLM the policies start from."""
        return self.rl_policy.start_from or self.curated_subsets.main

    @property
    def best_of_n_vlm(self) -> str:
        """Subset whose VLM, or policy that, gives the answers of best of N."""
        return self.benchmarks.best_of_n.vlm or self.curated_subsets.main

    @property
    def data(self) -> Path:
        """Folder of this profile's outputs, relative to the project's root."""
        return Path("data") / self.name

    @property
    def state(self) -> Path:
        """Folder of this profile's local state (Dagster, MLflow, manifests), never versioned."""
        return Path(".rsqa") / self.name

    def score_cache(self, asset: str) -> Path:
        """Folder in which an asset keeps its scores between runs; `rsqa run --force` deletes it."""
        return self.state / "scores" / asset
