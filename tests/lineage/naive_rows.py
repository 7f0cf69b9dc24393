"""The rows behind a model, found with whole tables in pandas and rows in loops: the naive twin of
`rsqa_pipeline.lineage.rows.training_samples`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.curated_subsets.selection.apply_rule import apply_rule
from rsqa_pipeline.curated_subsets.selection.subset import SCORES
from rsqa_pipeline.lineage.sources import GENERATED
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import SourceRow
from rsqa_pipeline.stages import assets_of

_COLUMNS = ["sample_id", "image_id", "image", "source", "split", "task", "scene_class", "true_quality"]


def naive_samples(profile: Profile, subset: str, tables: list[str]) -> pd.DataFrame:
    """Rows of the samples of some tables that a subset keeps."""
    folders = {name: asset.folder(profile) for name, asset in assets_of(profile).items()}
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    ids = set(pq.read_table(folders[subset] / "ids.parquet")["sample_id"].to_pylist())
    corpus = _corpus(folders)
    rule = profile.curated_subsets.subsets[subset.removeprefix("subset_")]
    decided = apply_rule(corpus, rule, profile.seed)[["rank", "percentile", "rule"]]
    kept = [key in ids and table in tables for key, table in zip(corpus["sample_id"], corpus["table"], strict=True)]
    found = pd.concat([corpus, decided], axis=1)[pd.Series(kept, dtype=bool)]
    parts = [_with_rows(profile, str(name), folders[str(name)], part) for name, part in found.groupby("table")]
    return pd.concat(parts, ignore_index=True) if parts else found


def _corpus(folders: Mapping[str, Path]) -> pd.DataFrame:
    """Samples of split "corpus" of both tables, with every score and the version of the model that gave it."""
    parts = []
    for table, kind in TABLES.items():
        if table in folders:
            rows = pq.read_table(folders[table] / "samples.parquet", columns=_COLUMNS).to_pandas()
            rows["table"], rows["kind"], rows["table_row"] = table, kind, range(1, len(rows) + 1)
            parts.append(rows[rows["split"] == "corpus"])
    corpus = pd.concat(parts, ignore_index=True)
    corpus["oracle"] = corpus["true_quality"].astype(float)
    for selector, asset in SCORES.items():
        scores = pq.read_table(folders[asset] / "scores.parquet").to_pandas()
        scores = scores.set_index("sample_id").reindex(corpus["sample_id"]).reset_index()
        corpus[selector] = scores["score"].astype(float)
        corpus[f"{selector.removesuffix('_score')}_version"] = scores["model_version"]
        if "spread" in scores:
            corpus["spread"] = scores["spread"].astype(float)
    return corpus


def _with_rows(profile: Profile, asset: str, folder: Path, samples: pd.DataFrame) -> pd.DataFrame:
    pairs = profile.source_pairs
    file = pairs.captions if TABLES[asset] == "caption" else pairs.instructions
    truth = pq.read_table(folder / "truth.parquet").to_pandas().set_index("sample_id")
    if file is None or file.path is None:
        scenes = truth["scene"].reindex(samples["sample_id"]).to_numpy()
        return samples.assign(source_file=GENERATED, source_row=scenes)
    texts = {}
    for row in pq.read_table(folder / "samples.parquet").to_pylist():
        original = truth["original_text"][row["sample_id"]]
        texts[row["sample_id"]] = row["messages"][-1]["content"] if pd.isna(original) else original
    if file.format == "scenes":
        lines = pd.read_csv(file.path, dtype={"caption": str}, keep_default_na=False).to_dict("records")
        known = {(line["scene"], line["caption"]): row for row, line in reversed(list(enumerate(lines, 1)))}
        rows = [known.get((truth["scene"][key], texts[key])) for key in samples["sample_id"]]
        numbers = pd.Series(rows, dtype=float if None in rows else int).to_numpy()
        return samples.assign(source_file=str(file.path), source_row=numbers)
    first = dict[tuple[str, str], str]()
    for entry in read_source(file):
        if isinstance(entry, SourceRow):
            first.setdefault((Path(entry.image).name, entry.messages[-1]["content"]), entry.key)
    pairs_of = zip(samples["image"], samples["sample_id"], strict=True)
    keys = pd.Series([first.get((Path(image).name, texts[key])) for image, key in pairs_of], dtype="object")
    return samples.assign(source_file=str(file.path), source_row=keys.to_numpy())
