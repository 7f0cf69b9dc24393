"""Loads a profile file and checks all of it before any work. All faults are reported at once."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rsqa_pipeline.errors import ProfileError
from rsqa_pipeline.profile.profile import Profile
from rsqa_pipeline.profile.yaml_file import YamlFault, read_yaml

PROFILE_FOLDER = Path("configs/profiles")
MAX_EXTENDS = 10
"""Longest chain of profiles that extend each other."""
_ALTERNATIVES = {"epochs": "steps", "steps": "epochs"}
"""Keys that exclude each other: where a profile sets one, the one that it would inherit in its place is dropped."""
_SECRET_IN_URL = re.compile(
    r"://[^/\s]*@|://\S*[?&#;][^=&\s]*(key|token|secret|password|passwd|signature|sig|auth|credential)[^=&\s]*=", re.I
)


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
    """Writes the profile ``NAME-limit-N`` and returns its path: ``name`` with at most ``limit`` images per split.

    For a smoke run of a long profile. The limited profile has its own name and folders, so its outputs never replace
    those of the full profile. Other numbers that determine the cost (steps from scratch, prompts, best-of-N items) are
    reduced too, and each fine-tuned model is trained for the first seed only.
    """
    profile = load_profile(name)
    if limit < 30:
        raise ProfileError(name, [f"--limit: needs at least 30 images per split, found {limit}"])
    policy, best_of_n = profile.rl_policy, profile.benchmarks.best_of_n
    limited: dict[str, Any] = {
        "extends": name,
        "name": f"{profile.name}-limit-{limit}",
        "source_pairs": {
            key: {"limit": limit}
            for key in ("captions", "instructions", "benchmarks")
            if getattr(profile.source_pairs, key) is not None
        },
        "rl_policy": {
            "reasoning_samples": min(policy.reasoning_samples, limit),
            "prompts": min(policy.prompts, max(limit // 8, policy.grpo.batch_size)),
            "heldout_prompts": min(policy.heldout_prompts, max(limit // 8, 8)),
        },
        "finetuned_models": {"seeds": profile.finetuned_models.seeds[:1]},
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
    """The file of a profile given by name or path. Raises ProfileError for an unknown profile."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILE_FOLDER / f"{name}.yaml"
    if _unreadable(path) or not path.is_file():
        known = ", ".join(known_profiles()) or f"none (is {PROFILE_FOLDER} below the current folder?)"
        raise ProfileError(name, [f"no file {path}; known profiles: {known}"])
    return path


def _read(name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = profile_path(name)
    if path in seen:
        raise ProfileError(name, ["extends itself: " + " -> ".join(str(p) for p in (*seen, path))])
    if len(seen) >= MAX_EXTENDS:
        raise ProfileError(name, [f"a chain of more than {MAX_EXTENDS} profiles by extends; shorten it"])
    try:
        settings = read_yaml(path)
    except YamlFault as fault:
        raise ProfileError(name, [f"{path} cannot be read: {fault}"]) from None
    if not isinstance(settings, dict):
        raise ProfileError(name, [f"{path} must hold a mapping of sections, found {type(settings).__name__}"])
    if secrets := list(_secrets_in_urls(settings, ())):  # alone: other faults would quote the values
        raise ProfileError(name, secrets)
    if "extends" not in settings:
        return settings
    base = settings.pop("extends")
    if not isinstance(base, str) or not base.isprintable() or not 0 < len(base) < 1000:
        raise ProfileError(name, [f"extends: needs the name or path of one profile, found {reprlib.repr(base)}"])
    return _merge(_read(base, (*seen, path)), settings)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {key: value for key, value in base.items() if _ALTERNATIVES.get(key) not in over}
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _secrets_in_urls(value: object, location: tuple[str, ...]) -> Iterator[str]:
    """Faults of URLs with a user, password or key; they do not quote the URL."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from _secrets_in_urls(part, (*location, _SECRET_IN_URL.sub("://...", str(key))))
            if isinstance(key, str):
                yield from _secrets_in_urls(key, (*location, "(a key)"))
    elif isinstance(value, str) and _SECRET_IN_URL.search(value):
        yield (
            f"{'.'.join(location)}: this URL holds a user, password or key; put the key into an environment variable "
            "and name that variable in api_key_env"
        )


def _describe(fault: Any) -> str:
    where = ".".join(str(part) if len(str(part)) < 100 else reprlib.repr(part) for part in fault["loc"])
    where = "".join(sign if sign.isprintable() else "?" for sign in where)
    if fault["type"] == "value_error":  # a rule across keys: the value found would be a complete section
        return f"{where}: {fault['ctx']['error']}" if where else str(fault["ctx"]["error"])
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key; known here: {', '.join(_known_keys(fault['loc'][:-1]))}"
    return (
        f"{where}: {fault['msg']}, found {reprlib.repr(fault['input'])}"
        if fault["type"] != "missing"
        else f"{where}: is missing"
    )


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Profile
    for part in location:
        if part not in model.model_fields:  # a list index or a mapping key: the model below is the same
            continue
        field = model.model_fields[part].annotation
        model = next((a for a in getattr(field, "__args__", [field]) if hasattr(a, "model_fields")), field)
    return sorted(model.model_fields)


def _missing_paths(settings: dict[str, Any]) -> list[str]:
    """Faults of paths, and of keys that need each other, in settings that may have any other fault too."""
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
    gold = _mapping(_mapping(settings.get("rl_policy")).get("watch")).get("gold_model")
    if isinstance(gold, str) and (problem := _unreadable(Path(gold))):
        faults.append(f"rl_policy.watch.gold_model: {problem}: {gold}")
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
    """The value if it is a mapping, else an empty one; validation reports a wrong type."""
    return value if isinstance(value, dict) else {}


def _unreadable(path: Path) -> str | None:
    try:
        if not path.exists():
            return "no such file or folder"
    except (OSError, ValueError) as error:  # a parent folder that may not be entered, or an invalid name
        return str(error)
    return None if os.access(path, os.R_OK) else "no permission to read"


def default_profile() -> str:
    """The profile named in ``params.yaml``. Commands use it without ``--profile``, and DVC versions it.

    Raises ProfileError if there is no such file.
    """
    path = Path("params.yaml")
    if not path.is_file():
        raise ProfileError(
            "(default)", [f"no params.yaml in {Path.cwd()}; run from the project's root or give --profile"]
        )
    try:
        params = read_yaml(path)
    except YamlFault as fault:
        raise ProfileError("(default)", [f"params.yaml cannot be read: {fault}"]) from None
    name = params.get("profile") if isinstance(params, dict) else None
    if not isinstance(name, str):
        raise ProfileError("(default)", ["params.yaml needs a key profile with a profile's name, or give --profile"])
    return name
