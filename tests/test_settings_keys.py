"""Every setting that a stage's module reads is a key of its asset, so that a change of it makes the asset stale."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsqa_pipeline.profile import Profile, known_profiles, load_profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset


def settings_read(source: str, function_name: str) -> set[str]:
    """Dotted names read from ``settings`` or from a variable that holds a part of it, e.g. ``rl_policy.prompts``, by
    the function or by others of its module that it uses.

    A part that is passed on whole counts as read up to its own name.
    """
    read: set[str] = set()
    for function in _used(ast.parse(source), function_name):
        parts = {"settings": ""}
        for names, values in _assignments(function):
            for name, value in zip(names, values, strict=True):
                if (chain := _chain(value, parts)) is not None:
                    parts[name] = chain
        attributes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
        inner = {id(node.value) for node in attributes}
        read |= {chain for node in attributes if id(node) not in inner and (chain := _chain(node, parts))}
    return read


def _used(module: ast.Module, name: str) -> list[ast.FunctionDef]:
    """The function and all functions of the module that it uses, directly or not."""
    functions = {node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    used: dict[str, ast.FunctionDef] = {}
    pending = [name]
    while pending:
        if (one := pending.pop()) in functions and one not in used:
            used[one] = functions[one]
            pending += [node.id for node in ast.walk(functions[one]) if isinstance(node, ast.Name)]
    return list(used.values())


def _assignments(function: ast.FunctionDef) -> Iterator[tuple[list[str], list[ast.expr]]]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name):
            yield [target.id], [node.value]
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            names = [element.id for element in target.elts if isinstance(element, ast.Name)]
            if len(names) == len(node.value.elts):
                yield names, node.value.elts


def _chain(node: ast.expr, parts: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return parts.get(node.id)
    if isinstance(node, ast.Attribute):
        before = _chain(node.value, parts)
        return None if before is None else f"{before}.{node.attr}".lstrip(".")
    return None


def fields_of(names: set[str], profile: Profile) -> set[str]:
    """The names without what is no field: methods and properties of a section, which read its fields themselves."""
    found = set()
    for name in names:
        section, known = profile, []
        for part in name.split("."):
            if part not in getattr(type(section), "model_fields", {}):
                break
            known.append(part)
            section = getattr(section, part)
        found.add(".".join(known))
    return found - {""}


def unlisted(asset: Asset, profile: Profile) -> set[str]:
    """Settings that the asset's module reads and its keys do not cover."""
    module, function = asset.function.split(":")
    spec = importlib.util.find_spec(f"rsqa_pipeline.{module}")
    assert spec is not None and spec.origin is not None
    read = fields_of(settings_read(Path(spec.origin).read_text(encoding="utf-8"), function), profile)
    keys = ("name", *asset.keys)
    return {
        name
        for name in read
        if not any(name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.") for key in keys)
    }


@pytest.mark.parametrize("name", known_profiles())
def test_every_setting_that_a_stage_reads_is_a_key_of_its_asset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsqa_pipeline.profile.loading._missing_paths", lambda settings: [])  # paths of others
    profile = load_profile(name)
    missing = {asset.name: found for asset in assets_of(profile).values() if (found := unlisted(asset, profile))}
    assert missing == {}


def test_reads_through_variables_and_tuples_are_found() -> None:
    source = (
        "def run(settings):\n"
        "    config, seed = settings.rl_policy, settings.seed\n"
        "    step = config.reasoning\n"
        "    train(step.epochs, settings.compute, config.prompts)\n"
        "    return other.value\n"
        "def unused(settings):\n"
        "    return settings.benchmarks\n"
    )
    assert settings_read(source, "run") == {
        "rl_policy", "seed", "rl_policy.reasoning", "rl_policy.reasoning.epochs", "compute", "rl_policy.prompts"
    }  # fmt: skip
