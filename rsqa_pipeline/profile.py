"""Typed settings. A profile file is the only place that settings come from; it is checked whole before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from rsqa_pipeline.curation_settings import CuratedSubsets, CurationCurve
from rsqa_pipeline.errors import ProfileError
from rsqa_pipeline.preference_settings import PreferenceData
from rsqa_pipeline.score_model_settings import ScoreModelSettings
from rsqa_pipeline.settings_types import Count, Fraction, NonNegative, Optimizer, Percent, Sampling, Section

PROFILE_FOLDER = Path("configs/profiles")


class Compute(Section):
    """Where models run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_tokens: Count = 4096
    """Tokens that the score model scores at once: rows times the longest, images' tokens among them."""
    launch: list[str] = Field(default=[])
    """Words that start the score model's training in several processes, put before ``-m module job``: accelerate's
    or torchrun's, e.g. ``[accelerate, launch, --multi_gpu, --num_processes, "8"]``. Empty: within the stage's own."""


class ScratchSteps(Section):
    """Optimizer steps of each part of the from-scratch recipe."""

    perception_steps: Count
    vlm_steps: Count
    clip_steps: Count


class ScratchRecipe(ScratchSteps):
    """How small models are made from nothing on the profile's own images: perception first, then language."""

    image_size: Count = 64
    batch_size: Count = 64
    language_batch_size: Count = 24
    """Images a step of the language phase; each has several texts."""
    smoke: ScratchSteps
    """The steps of a run with ``--limit``."""


class TinyModels(Section):
    """The VLM and the CLIP that everything starts from: a folder, a hub id, or ``scratch``."""

    vlm: str
    clip: str
    revision: str | None = None
    trust_remote_code: bool = False
    scratch: ScratchRecipe | None = None


class Corruption(Section):
    """Recorded, systematic faults put into a share of the training captions, one habit a source."""

    share: Fraction
    sources: list[Literal["class_swap", "count_change", "vague", "wrong_image"]] = Field(min_length=1)


class SourceFile(Section):
    """Where image-text data comes from: a file in a known format, or the embedded scenes."""

    format: Literal[
        "scenes", "karpathy", "coco", "llava", "csv", "jsonl", "webdataset", "hf_parquet", "image_folder",
        "class_questions",
    ]  # fmt: skip
    path: str | None = None
    """The file; a folder for ``image_folder``; a file or a folder of them for ``webdataset`` and ``hf_parquet``. Scenes
    need one for captions only."""
    images: str | None = None
    """Folder that the file's image names are in; default: the file's own folder."""
    limit: Count | None = None
    """At most this many images a split, taken evenly over the file."""
    corruption: Corruption | None = None
    scene_class_from_name: bool = False
    """Take the scene class from the file name's letters before the first underscore, as RSICD does."""
    bands: list[Count] | None = None
    """Of TIFFs: bands shown as red, green, blue, or one shown grey, from 1. Default: see `geotiff.RasterChoice`."""
    stretch: tuple[Percent, Percent] | None = None
    """Of TIFFs: percentiles of each band that become 0 and 255. Default: 8-bit values stay, others take 2, 98."""

    @model_validator(mode="after")
    def _bands_can_be_shown(self) -> SourceFile:
        if self.bands is not None and len(self.bands) not in (1, 3):
            raise ValueError(f"bands must be three, or one shown grey, found {self.bands}")
        if self.stretch is not None and self.stretch[0] >= self.stretch[1]:
            raise ValueError(f"stretch must run from the lower to the higher percentile, found {self.stretch}")
        return self


class Duplicates(Section):
    """Near-duplicate images keep one of a kind, and nothing of a benchmark is trained on (paper, preference data)."""

    image_model: str | None = None
    """What compares images: a copy-detection model or CLIP, folder or hub id; None compares them perceptually."""
    image_threshold: Fraction | None = None
    """Similarity from which on images are near-duplicates; default 0.88 perceptually, 0.65 for a model, which fits
    copy-detection embeddings. A CLIP needs more, e.g. 0.95."""
    text_model: str | None = None
    """What compares the questions of near-duplicate images: a sentence model or CLIP; None takes TF-IDF of words."""
    text_threshold: Fraction = 0.65
    """Cosine from which on questions are alike."""
    benchmarks: dict[str, SourceFile] = Field(default={})
    """Further test sets that must not be trained on, by name; the profile's own is one always."""


class SourcePairs(Section):
    captions: SourceFile
    instructions: SourceFile
    benchmarks: SourceFile
    preference_share: Fraction
    """Share of the training images kept for building preferences; the rest is the corpus to curate."""
    instruction_samples: Count
    benchmark_items: Count
    """Items of each benchmark task."""
    duplicates: Duplicates | None = None
    """None removes exact repeats only, and looks at no benchmark."""
    max_image_pixels: Count = 100_000_000
    max_quarantined_share: Fraction = 0.05
    """The asset's check fails above this share."""


class LoraOptimizer(Optimizer):
    lora_rank: Count
    lora_alpha: Count


class FinetunedModels(Section):
    clip: Optimizer
    vlm_captions: Optimizer
    """Step P: captions, only the vision-language connector trains."""
    vlm_instructions: LoraOptimizer
    """Step S: instructions, LoRA on the language model, and the connector."""
    max_length: Count


class RlPolicy(Section):
    start_from: Literal["vlm_all", "vlm_random_30", "vlm_clip_score_30", "vlm_score_model_30"] = "vlm_score_model_30"
    reasoning_samples: Annotated[int, Field(ge=0)]
    """Reasoning answers learned before GRPO ("R1"); 0 starts GRPO at once ("Zero")."""
    reasoning: Optimizer
    prompts: Count
    heldout_prompts: Count
    rollouts: Annotated[int, Field(ge=2)]
    sampling: Sampling
    grpo: Optimizer
    kl: NonNegative
    format_weight: Fraction = 0.3
    accuracy_weight: Fraction = 0.7
    open_ended_beta: Annotated[float, Field(gt=0)] = 0.2


class BestOfN(Section):
    items: Count
    counts: list[Count] = Field(min_length=1)
    sampling: Sampling


class Benchmarks(Section):
    batch_size: Count
    max_new_tokens: Count
    bootstrap_resamples: Count
    best_of_n: BestOfN
    curve: CurationCurve


class ReportSettings(Section):
    gallery_size: Count


class Profile(Section):
    """Everything a run depends on besides its data and code."""

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

    @property
    def data(self) -> Path:
        """Folder of this profile's outputs, relative to the project's root."""
        return Path("data") / self.name

    @property
    def state(self) -> Path:
        """Folder of this profile's local state (Dagster, MLflow, manifests), never versioned."""
        return Path(".rsqa") / self.name


def known_profiles() -> list[str]:
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Loads a profile by name (``configs/profiles/NAME.yaml``) or by the path of a YAML file.

    Raises:
        ProfileError: one message with every fault: unknown name or key, wrong type, value out of range, missing path.
    """
    settings = _read(name, seen=())
    faults = _missing_paths(settings)
    try:
        profile = Profile.model_validate(settings)
    except ValidationError as error:
        raise ProfileError(name, [*map(_describe, error.errors()), *faults]) from error
    if faults:
        raise ProfileError(name, faults)
    return profile


def limited_profile(name: str, limit: int) -> Path:
    """Writes the profile ``NAME-limit-N`` and returns its path: ``name`` with at most ``limit`` images a split.

    A smoke run of a long profile. It is a profile of its own, with folders of its own, so that its outputs never stand
    where the whole profile's are expected. What costs by its own number (steps from
    scratch, prompts, best-of-N items) shrinks too.
    """
    profile = load_profile(name)
    if limit < 30:
        raise ProfileError(name, [f"--limit: needs at least 30 images a split, found {limit}"])
    policy, best_of_n = profile.rl_policy, profile.benchmarks.best_of_n
    limited: dict[str, Any] = {
        "extends": name,
        "name": f"{profile.name}-limit-{limit}",
        "source_pairs": {key: {"limit": limit} for key in ("captions", "instructions", "benchmarks")},
        "rl_policy": {
            "reasoning_samples": min(policy.reasoning_samples, limit),
            "prompts": min(policy.prompts, max(limit // 8, policy.grpo.batch_size)),
            "heldout_prompts": min(policy.heldout_prompts, max(limit // 8, 8)),
        },
        "benchmarks": {"best_of_n": {"items": min(best_of_n.items, max(limit // 8, 8))}},
    }
    if profile.tiny_models.scratch is not None:
        limited["tiny_models"] = {"scratch": profile.tiny_models.scratch.smoke.model_dump()}
    imports = profile.preference_data.imports.model_dump()
    limited["preference_data"] = {
        "imports": {
            kind: [{**file, "limit": min(file["limit"] or limit, limit)} for file in files]
            for kind, files in imports.items()
        }
    }
    path = Path(".rsqa") / limited["name"] / "profile.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(limited, sort_keys=False), encoding="utf-8")
    return path


def profile_path(name: str) -> Path:
    """The file of a profile given by name or path. Raises ProfileError for an unknown one."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(known_profiles()) or f"none (is {PROFILE_FOLDER} below the current folder?)"
        raise ProfileError(name, [f"no file {path}; known profiles: {known}"])
    return path


def _read(name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = profile_path(name)
    if path in seen:
        raise ProfileError(name, ["extends itself: " + " -> ".join(str(p) for p in (*seen, path))])
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(name, [f"{path} cannot be read: {error}"]) from error
    if not isinstance(settings, dict):
        raise ProfileError(name, [f"{path} must hold a mapping of sections, found {type(settings).__name__}"])
    base = settings.pop("extends", None)
    return _merge(_read(base, (*seen, path)), settings) if base else settings


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _describe(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "value_error":  # what goes with what: the value found is a whole section
        return f"{where}: {fault['ctx']['error']}" if where else str(fault["ctx"]["error"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key; known here: {', '.join(_known_keys(fault['loc'][:-1]))}"
    return (
        f"{where}: {fault['msg']}, found {fault['input']!r}" if fault["type"] != "missing" else f"{where}: is missing"
    )


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Profile
    for part in location:
        if part not in model.model_fields:  # a list's place or a mapping's key: the same model stands below it
            continue
        field = model.model_fields[part].annotation
        model = next((a for a in getattr(field, "__args__", [field]) if hasattr(a, "model_fields")), field)
    return sorted(model.model_fields)


def _missing_paths(settings: dict[str, Any]) -> list[str]:
    """Faults of paths and of what goes with what, in settings that may have any other fault too."""
    faults = []
    pairs = _mapping(settings.get("source_pairs"))
    sources = {key: _mapping(pairs.get(key)) for key in ("captions", "instructions", "benchmarks")}
    further = _mapping(_mapping(pairs.get("duplicates")).get("benchmarks"))
    sources |= {f"duplicates.benchmarks.{key}": _mapping(source) for key, source in further.items()}
    for key, source in sources.items():
        form, path = source.get("format"), source.get("path")
        if path is None and form is not None and (form != "scenes" or key == "captions"):
            faults.append(f"source_pairs.{key}.path: is needed with format {form!r}")
        for field in ("path", "images"):
            value = source.get(field)
            if isinstance(value, str) and (problem := _unreadable(Path(value))):
                faults.append(f"source_pairs.{key}.{field}: {problem}: {value}")
    faults += _missing_preference_files(_mapping(settings.get("preference_data")))
    for name, rule in _mapping(_mapping(settings.get("curated_subsets")).get("subsets")).items():
        faults += _missing_embeddings(f"curated_subsets.subsets.{name}", _mapping(rule))
    models = _mapping(settings.get("tiny_models"))
    if "scratch" in (models.get("vlm"), models.get("clip")) and models.get("scratch") is None:
        faults.append("tiny_models.scratch: is needed where vlm or clip is 'scratch'")
    return faults


def _missing_embeddings(where: str, rule: dict[str, Any]) -> list[str]:
    path = _mapping(rule.get("diverse")).get("embeddings")
    problem = _unreadable(Path(path)) if isinstance(path, str) else None
    faults = [f"{where}.diverse.embeddings: {problem}: {path}"] if problem else []
    for key in ("all_of", "any_of"):
        parts = rule.get(key)
        for number, part in enumerate(parts if isinstance(parts, list) else []):
            faults += _missing_embeddings(f"{where}.{key}.{number}", _mapping(part))
    return faults


def _missing_preference_files(preferences: dict[str, Any]) -> list[str]:
    named = {"labels": preferences.get("labels")}
    for kind, files in _mapping(preferences.get("imports")).items():
        for number, file in enumerate(files if isinstance(files, list) else []):
            named |= {f"imports.{kind}.{number}.{key}": _mapping(file).get(key) for key in ("path", "images")}
    return [
        f"preference_data.{key}: {problem}: {path}"
        for key, path in named.items()
        if isinstance(path, str) and (problem := _unreadable(Path(path)))
    ]


def _mapping(value: object) -> dict[str, Any]:
    """The value where it is a mapping; what it should have been is told by the typed settings."""
    return value if isinstance(value, dict) else {}


def _unreadable(path: Path) -> str | None:
    try:
        if not path.exists():
            return "no such file or folder"
    except (OSError, ValueError) as error:  # a folder on the way may not be entered, or the name cannot be one
        return str(error)
    return None if os.access(path, os.R_OK) else "no permission to read"


def default_profile() -> str:
    """The profile that ``params.yaml`` names: what commands use without ``--profile``, and what DVC versions.

    Raises ProfileError where there is no such file.
    """
    path = Path("params.yaml")
    if not path.is_file():
        raise ProfileError(
            "(default)", [f"no params.yaml in {Path.cwd()}; run from the project's root or give --profile"]
        )
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["profile"])
