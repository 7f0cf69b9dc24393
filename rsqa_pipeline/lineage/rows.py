"""The rows behind a model: its training samples and the preference pairs behind their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.corpus_columns import described, read_corpus
from rsqa_pipeline.lineage.ranks import ranks
from rsqa_pipeline.lineage.sources import among, with_source_rows
from rsqa_pipeline.lineage.trace import TraceNode
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of

SAMPLE_LINKS = (
    "sample_id", "image_id", "image", "source", "source_file", "source_row", "table", "table_row", "rule",
)  # fmt: skip
"""Columns of a training sample that must never be missing."""
_PAIR_COLUMNS = (
    "pair_id", "image_id", "family", "chosen", "rejected", "chosen_source", "rejected_source", "chosen_mark",
    "rejected_mark", "judge", "split",
)  # fmt: skip


def nodes_of(root: TraceNode) -> dict[str, TraceNode]:
    """The assets of a trace by name, the root first; of an asset with several versions the one nearest to the root."""
    found, waiting = dict[str, TraceNode](), [root]
    while waiting:
        node = waiting.pop(0)
        if node.details.get("kind") == "asset" and node.name not in found:
            found[node.name] = node
            waiting += node.inputs
    return found


def training_samples(profile: Profile, root: TraceNode) -> pd.DataFrame:
    """One row per sample that the traced model was trained on, or that the traced subset keeps; empty for others.

    Columns: ``kind``, SAMPLE_LINKS, ``score_model``, ``score_model_version``, ``clip_score``, ``clip_version``,
    ``rank``, ``percentile``.

    Raises:
        DataError: a table on disk is not the recorded one, so its rows are not those of the model.
    """
    nodes = nodes_of(root)
    subset = root.name if root.name.startswith("subset_") else _input(root, "subset_")
    if subset is None:
        return pd.DataFrame()
    tables = [name for name in TABLES if name in {node.name for node in root.inputs}]
    needed = {subset, *tables, *(node.name for node in nodes[subset].inputs)} if subset in nodes else {subset}
    folders = _folders(profile, nodes, needed)
    rule = profile.curated_subsets.subsets[subset.removeprefix("subset_")]
    corpus = read_corpus(folders, rule)
    kept = pq.read_table(folders[subset] / "ids.parquet", columns=["sample_id"])["sample_id"]
    listed = among(corpus.ids, kept) & corpus.samples["table"].isin(tables).to_numpy()
    decided = ranks(corpus.ids, corpus.samples, rule, profile.seed, listed)
    parts, start = list[pd.DataFrame](), 0
    for name in corpus.samples["table"][listed].unique():
        ids, rows, wanted = described(corpus, folders[name], name, listed)
        ranked = decided[start : start + len(rows)].reset_index(drop=True)
        start += len(rows)
        rows = pd.concat([rows, ranked], axis=1)
        parts.append(with_source_rows(profile, name, folders[name], ids, rows, wanted))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["kind", *SAMPLE_LINKS])


def _input(root: TraceNode, prefix: str) -> str | None:
    return next((node.name for node in root.inputs if node.name.startswith(prefix)), None)


def _folders(profile: Profile, nodes: Mapping[str, TraceNode], names: Iterable[str]) -> dict[str, Path]:
    assets = assets_of(profile)
    for name in sorted(names):
        if name not in nodes or nodes[name].on_disk != "matches":
            raise DataError(
                f"the rows of {name} cannot be listed: it is not on disk as recorded; get it with `dvc pull`"
            )
    return {name: assets[name].folder(profile) for name in names}


def preference_pairs(profile: Profile, root: TraceNode) -> pd.DataFrame:
    """One row per pair that the traced version or the score model behind it learned from (split "train").

    Columns: ``table``, ``pair_id``, image, texts, captioners (``chosen_source``, ``rejected_source``, with the version
    of the model that wrote the text, if one did), marks, ``judge``, ``prompt``.
    """
    nodes = nodes_of(root)
    names = [name for name in nodes if name.endswith("_preferences")]
    parts = []
    for name, folder in _folders(profile, nodes, names).items():
        rows = pq.read_table(folder / "pairs.parquet").to_pandas()
        rows = rows[rows["split"] == "train"]
        written = pq.read_table(folder / "generations.parquet", columns=["image_id", "text", "source", "version"])
        versions = written.to_pandas().drop_duplicates(["image_id", "text", "source"])
        prompts = [json.dumps([dict(turn) for turn in context]) for context in rows["context"]]
        found = rows[list(_PAIR_COLUMNS)].assign(table=name, prompt=prompts)
        for side in ("chosen", "rejected"):
            names_of = {"text": side, "source": f"{side}_source", "version": f"{side}_version"}
            found = found.merge(versions.rename(columns=names_of), how="left")
        parts.append(found)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def unresolved(samples: pd.DataFrame) -> int:
    """Number of samples of which a link of SAMPLE_LINKS is missing."""
    return int(samples[list(SAMPLE_LINKS)].isna().any(axis=1).sum()) if len(samples) else 0
