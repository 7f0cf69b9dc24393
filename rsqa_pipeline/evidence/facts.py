"""What is known of a subset or a model, from the records and the outputs; nothing here is an opinion."""

from __future__ import annotations

import json
from typing import Any

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.curated_subsets.selection.subset import SCORES
from rsqa_pipeline.evidence.project import Model, Project, Record
from rsqa_pipeline.profile.curated_subsets import SubsetRule

SMALLEST_GROUP = 20
"""Samples that a group needs for its kept share to be named among the extremes."""

_SOURCES = {"image_text_pairs": "source_pairs.captions", "instruction_samples": "source_pairs.instructions"}
_JUDGES = ("caption_preferences", "instruction_preferences")
PERSONAL = "Personal or sensitive data are not looked for. Whether there are any is for the operator to answer."
_USES = {
    "clip": "Retrieval and zero-shot classification of overhead images like those of its training data.",
    "vlm": "Captions and answers about overhead images like those of its training data.",
    "scorer": "Scores of texts about overhead images: to rank a corpus, as a reward, to choose among answers.",
}


def base_kind(project: Project, asset: str) -> str:
    """Which base model an asset's weights started from: ``clip``, ``vlm`` or ``scorer``."""
    if project.asset(asset).stage == "score_model":
        return "scorer"
    return "clip" if asset.startswith("clip_") else "vlm"


def data_facts(project: Project, subset: str) -> dict[str, Any]:
    """Texts for the card and the RAI fields of a subset, from its recorded settings, metrics and checks."""
    record, profile = project.standing[subset], project.profile
    metrics, folder = record["metrics"], project.folder(subset)
    rule = json.loads((folder / "rule.json").read_text(encoding="utf-8"))
    tables = [name for name in TABLES if name in record["recipe"]["inputs"] and name in project.standing]
    kept, dropped = int(metrics["kept_rows"]), int(metrics["dropped_rows"])
    return {
        "description": f"{kept} image-text samples that the rule of {subset} keeps of {kept + dropped}; profile "
        f"{profile.name} ({profile.description})",
        "version": record["data_version"],
        "kept": rule["kept"],
        "dropped": rule["dropped"],
        "corpus": {name: record["recipe"]["inputs"][name] for name in tables},
        "collection": "; ".join(_source(project, name) for name in tables),
        "preprocessing": [_cleaning(project, name) for name in tables],
        "manipulation": _rule(record, subset, project),
        "annotation": _annotation(project),
        "tools": [
            f"{selector}: scores of weights {version}" for selector, version in _scorers(project, record).items()
        ],
        "biases": _biases(project, subset),
        "limits": [
            "The images are not part of this data set; image_id is the sha256 of each image's bytes.",
            f"{int(metrics['without_score_rows'])} samples of the corpus have no score that the rule ranks by; they "
            "are not among the ranked.",
            f"All of it was made with profile {profile.name}: {profile.description}.",
        ],
        "uses": ["Fine-tuning of vision-language models and CLIP on overhead images."],
        "personal": [PERSONAL],
        "quality": [
            f"True quality of the kept {kind}s, 1 to 5: {metrics[f'true_quality_{kind}s']:.3f} "
            f"({int(metrics[f'true_quality_known_{kind}s'])} known)"
            for kind in TABLES.values()
            if f"true_quality_{kind}s" in metrics
        ],
        "checks": record["checks"],
    }


def model_facts(project: Project, model: Model) -> dict[str, Any]:
    """Texts for the card of a model, from its record and the record of the base models."""
    record, profile = project.standing[model.asset], project.profile
    kind = base_kind(project, model.asset)
    base: dict[str, str] = {}
    file = project.folder("base_models") / f"{kind}.json" if "base_models" in project.standing else None
    if file is not None and file.is_file():
        named = project.standing["base_models"]["recipe"]["settings"]["tiny_models"]
        base = {"name": named.get(kind) or named["vlm"], **json.loads(file.read_text(encoding="utf-8"))}
    return {
        "asset": model.asset,
        "description": project.asset(model.asset).description,
        "kind": kind,
        "base": base,
        "data_version": record["data_version"],
        "code_version": record["recipe"]["code_version"],
        "inputs": record["recipe"]["inputs"],
        "settings": record["recipe"]["settings"],
        "metrics": record["metrics"],
        "checks": record["checks"],
        "run": record["run"],
        "use": _USES[kind],
        "limits": [
            f"Profile {profile.name}: {profile.description}. The figures hold for the benchmark items of this "
            "profile and say nothing about other imagery.",
            "No assessment of bias against groups of people is made. Texts about people were not looked for.",
            "Errors on images of other sensors, places, seasons or resolutions than those of the data are not known.",
        ],
    }


def rule_of(project: Project, facts: dict[str, Any]) -> str | None:
    """The rule of the training data of a model with these `model_facts`; None if it was not trained on a subset."""
    subset = next((name for name in facts["inputs"] if name in project.subsets), None)
    return None if subset is None else _rule(project.standing[subset], subset, project)


def _source(project: Project, table: str) -> str:
    recipe = project.standing[table]["recipe"]
    named = recipe["settings"].get(_SOURCES[table]) or {}
    where = named.get("path") or "generated by this software"
    versions = ", ".join(f"{path} {version}" for path, version in recipe["sources"].items())
    return f"{table}: format {named.get('format', 'unknown')}, {where}" + (
        f" (versions: {versions})" if versions else ""
    )


def _cleaning(project: Project, table: str) -> str:
    """What was read, kept and quarantined, and whether near-duplicates were looked for."""
    record = project.standing[table]
    metrics, duplicates = record["metrics"], record["recipe"]["settings"].get("source_pairs.duplicates")
    looked = "near-duplicates and benchmark items were" if duplicates else "near-duplicates were not"
    return (
        f"{table}: {int(metrics['input_rows'])} rows read, {int(metrics['kept_rows'])} kept, "
        f"{int(metrics['quarantined_rows'])} quarantined with a reason; every image was decoded once; "
        f"{looked} looked for; split by image"
    )


def _rule(record: Record, subset: str, project: Project) -> str:
    name = subset.removeprefix("subset_")
    settings = record["recipe"]["settings"][f"curated_subsets.subsets.{name}"]
    stated = {key: value for key, value in settings.items() if value not in (None, [], {}, 0)}
    return f"Rule of {project.profile.name}/{name}: {json.dumps(stated, sort_keys=True)}; seed {project.profile.seed}"


def _scorers(project: Project, record: Record) -> dict[str, str]:
    """Selector -> version of the model whose scores the rule used."""
    name = record["asset"].removeprefix("subset_")
    rule = SubsetRule.model_validate(record["recipe"]["settings"][f"curated_subsets.subsets.{name}"])
    versions = json.loads((project.folder(record["asset"]) / "rule.json").read_text(encoding="utf-8"))["model_version"]
    used = [selector for selector in SCORES if selector in rule.selectors]
    return dict(zip(used, (versions or "").split(", "), strict=False))


def _annotation(project: Project) -> list[str]:
    found = ["The texts are those of the sources; column source names the writer of each."]
    for name in _JUDGES:
        if name in project.standing:
            record = project.standing[name]
            judge = record["recipe"]["settings"].get("preference_data.judge") or project.profile.preference_data.judge
            pairs = int(record["metrics"].get("kept_rows", 0))
            found.append(f"The score model learned from {name}: {pairs} pairs, judge {judge}.")
    return found


def _biases(project: Project, subset: str) -> list[str]:
    """Groups of which nothing is kept, and the groups kept least and most, by kind."""
    shares = json.loads((project.folder(subset) / "shares.json").read_text(encoding="utf-8"))
    found = []
    for kind in TABLES.values():
        rows = [row for row in shares if row["kind"] == kind and row["samples"] >= SMALLEST_GROUP]
        rows.sort(key=lambda row: (row["share"], row["by"], row["value"]))
        if rows:
            ends = [rows[0], rows[-1]] if len(rows) > 1 else rows
            groups = " and ".join(
                f"{row['by']} {row['value']!r} {row['share']:.1%} [{row['low']:.1%}, {row['high']:.1%}]" for row in ends
            )
            found.append(f"Kept share of {kind}s, least and most: {groups}.")
    lost = [f"{r['by']} {r['value']!r} ({r['samples']} {r['kind']}s)" for r in shares if r["vanished"]]
    return [*found, f"Nothing is kept of: {', '.join(lost)}." if lost else "Something is kept of every group."]
