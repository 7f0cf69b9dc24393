"""Reads the finished outputs of a profile: corpus, scores, one subset's decisions, faults and near-duplicates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsqa_pipeline.curated_subsets.corpus import TABLES, stream_corpus
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.explorer.exploration import Exploration, ExploredSample, drawn, quarantined, rule_words
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import read_table, stream_table
from rsqa_pipeline.stages import assets_of

_KEPT_IMAGE = re.compile(r": kept is image ([0-9a-f]{64})")
"""In the detail of a sample that `source_pairs.duplicates.remove` quarantines."""


def read_profile(profile: Profile, subset: str | None, limit: int) -> Exploration:
    """The corpus as ``subset`` decides on it, and every quarantined row of ingest and scoring.

    Args:
        subset: name in the profile; None: the first one ranked by the score model alone.
        limit: largest number of samples; beyond it they are drawn by hash.

    Raises:
        UsageError: unknown subset, or an output is not there yet.
        DataError: outputs that do not belong together.
    """
    name, rule = _chosen(profile, subset)
    folders = _folders(profile, f"subset_{name}")
    corpus = {asset: folders[asset] for asset in TABLES if asset in folders}
    decisions = _Decisions(folders[f"subset_{name}"], rule)
    scores, clip_scores = (_scores(folders[asset]) for asset in ("pair_scores", "clip_scores"))
    faults = _recorded_faults(corpus)
    groups = _groups(corpus)
    refused = [
        _in_group(quarantined(row), groups)
        for folder in corpus.values()
        for row in read_table(folder / "quarantine.parquet")
    ]
    unscored = {row["sample_id"]: row for row in read_table(folders["pair_scores"] / "quarantine.parquet")}
    keys = [row["sample_id"] for row in stream_corpus(corpus, ["sample_id"])]
    wanted = drawn([*keys, *(sample.key for sample in refused)], limit)
    samples = [
        ExploredSample(
            **decisions.of(row),
            **{name: row[name] for name in ("kind", "source", "scene_class", "task", "image", "image_id", "messages")},
            score=scores.get(row["sample_id"]),
            clip_score=clip_scores.get(row["sample_id"]),
            true_quality=row["true_quality"],
            fault=unscored.get(row["sample_id"], {}).get("reason", faults.get(row["sample_id"])),
            detail=unscored.get(row["sample_id"], {}).get("detail"),
            group=groups.get(row["image_id"]),
        )
        for row in stream_corpus(corpus)
        if wanted is None or row["sample_id"] in wanted
    ]
    samples += [sample for sample in refused if wanted is None or sample.key in wanted]
    return Exploration(f"Profile {profile.name}, subset {name}", samples, len(keys) + len(refused))


def _chosen(profile: Profile, subset: str | None) -> tuple[str, SubsetRule]:
    subsets = profile.curated_subsets.subsets
    if subset is None:
        ranked = [name for name, rule in subsets.items() if rule.selector == "score_model"]
        subset = ranked[0] if ranked else next(iter(subsets))
    if subset not in subsets:
        raise UsageError(f"--subset {subset!r} is not in profile {profile.name}; known: {', '.join(subsets)}")
    return subset, subsets[subset]


def _folders(profile: Profile, subset: str) -> dict[str, Path]:
    assets = assets_of(profile)
    tables = {**dict.fromkeys(TABLES, "samples.parquet"), "pair_scores": "scores.parquet"}
    tables |= {"clip_scores": "scores.parquet", subset: "explained.parquet"}
    folders = {name: assets[name].folder(profile) for name in tables if name in assets}
    missing = [name for name, folder in folders.items() if not (folder / tables[name]).is_file()]
    if missing:
        found = f"no {folders[missing[0]] / tables[missing[0]]}"
        raise UsageError(
            f"{found}; make it with `rsqa run {subset} --profile {profile.name}` or get it with `dvc pull`"
        )
    return folders


class _Decisions:
    """What one subset decided on each sample."""

    def __init__(self, folder: Path, rule: SubsetRule) -> None:
        self._folder, self._rule = folder, rule
        self._kept = {row["sample_id"] for row in read_table(folder / "ids.parquet")}
        self._dropped = {row["key"]: row for row in read_table(folder / "explained.parquet")}

    def of(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        key = sample["sample_id"]
        if key in self._kept:
            return {"key": key, "state": "kept", "rule": rule_words(self._rule, sample["kind"])}
        if key not in self._dropped:
            raise DataError(f"{self._folder} decides nothing on sample {key}: it is of another corpus; make it again")
        row = self._dropped[key]
        return {
            "key": key,
            "state": "dropped",
            **{part: row[part] for part in ("reason", "rule", "rank", "percentile")},
        }


def _scores(folder: Path) -> dict[str, float]:
    return {row["sample_id"]: row["score"] for row in stream_table(folder / "scores.parquet", ["sample_id", "score"])}


def _recorded_faults(corpus: Mapping[str, Path]) -> dict[str, str]:
    """Faults put into texts on purpose, by sample."""
    return {
        row["sample_id"]: row["corruption"]
        for folder in corpus.values()
        if (folder / "truth.parquet").is_file()
        for row in stream_table(folder / "truth.parquet", ["sample_id", "corruption"])
        if row["corruption"] is not None
    }


def _groups(corpus: Mapping[str, Path]) -> dict[str, str]:
    """The component of each image that has near-duplicates; empty if the profile does not look for them."""
    components = {
        row["image_id"]: row["component"]
        for folder in corpus.values()
        if (folder / "components.parquet").is_file()
        for row in stream_table(folder / "components.parquet", ["image_id", "component"])
    }
    sizes = Counter(components.values())
    return {image_id: component for image_id, component in components.items() if sizes[component] > 1}


def _in_group(sample: ExploredSample, groups: Mapping[str, str]) -> ExploredSample:
    """A removed near-duplicate in the group of the image that was kept."""
    kept = _KEPT_IMAGE.search(sample.detail or "") if sample.reason == "near_duplicate" else None
    return replace(sample, group=groups.get(kept[1], kept[1])) if kept else sample
