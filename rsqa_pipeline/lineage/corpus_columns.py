"""The corpus behind a subset: what ranks its samples, of all of them; what describes them, of the listed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.curated_subsets.selection.subset import SCORES
from rsqa_pipeline.lineage.columns import Mask, batches, read_by_id, read_rows
from rsqa_pipeline.lineage.ranks import columns_of
from rsqa_pipeline.profile.curated_subsets import SubsetRule

_DESCRIBED = ["image_id", "image", "source", "split", "task", "scene_class", "true_quality"]


@dataclass(frozen=True)
class Corpus:
    """The n samples of split "corpus", captions first."""

    ids: pa.ChunkedArray
    samples: pd.DataFrame
    """Columns ``table``, ``kind``, ``place`` (in samples.parquet, from 0), and what a rule ranks by and groups by."""
    versions: Mapping[str, pa.ChunkedArray]
    """Selector -> version of the model that gave each score."""


def read_corpus(folders: Mapping[str, Path], rule: SubsetRule) -> Corpus:
    """The corpus as ``rule`` ranks it.

    Args:
        folders: of the tables and scores.
    """
    ids, parts = list[pa.ChunkedArray](), list[pd.DataFrame]()
    for code, table in enumerate(TABLES):
        if table in folders:
            path = folders[table] / "samples.parquet"
            own = _of_corpus(path)
            further = sorted(columns_of(rule).intersection(pq.read_schema(path).names))
            rows = read_rows(path, ["sample_id", *further], own)
            ids.append(rows["sample_id"])
            parts.append(rows.select(further).to_pandas().assign(place=np.flatnonzero(own), table=np.int8(code)))
    every = pa.chunked_array([chunk for found in ids for chunk in found.chunks], pa.string())
    samples = pd.concat(parts, ignore_index=True)
    codes = samples["table"].to_numpy()
    samples["table"] = pd.Categorical.from_codes(codes, pd.Index(list(TABLES)))
    samples["kind"] = pd.Categorical.from_codes(codes, pd.Index(list(TABLES.values())))
    if "true_quality" in samples:
        samples["oracle"] = samples["true_quality"].astype(float)
    versions = {}
    for selector, asset in SCORES.items():
        path = folders[asset] / "scores.parquet"
        spread = [name for name in pq.read_schema(path).names if name == "spread"]
        scores = read_by_id(path, ["score", "model_version", *spread], every)
        for name, column in (("score", selector), *((name, name) for name in spread)):
            samples[column] = scores[name].cast(pa.float64()).to_numpy()
        versions[selector] = scores["model_version"]
    return Corpus(every, samples, versions)


def described(corpus: Corpus, folder: Path, table: str, listed: Mask) -> tuple[pa.ChunkedArray, pd.DataFrame, Mask]:
    """The listed samples of one table in its order: their ids; what is known of them, with scores and versions; and
    which rows of the table they are.

    Args:
        listed: (n,) one value per sample.
    """
    path = folder / "samples.parquet"
    mine = listed & (corpus.samples["table"] == table).to_numpy()
    own = corpus.samples[mine]
    wanted = np.zeros(pq.read_metadata(path).num_rows, dtype=bool)
    wanted[own["place"].to_numpy()] = True
    ids = corpus.ids.filter(pa.array(mine))
    rows = read_rows(path, _DESCRIBED, wanted).add_column(0, "sample_id", ids).to_pandas()
    rows = rows.assign(table=table, kind=TABLES[table], table_row=own["place"].to_numpy() + 1)
    rows["oracle"] = rows["true_quality"].astype(float)
    for selector in SCORES:
        rows[selector] = own[selector].to_numpy()
        version = corpus.versions[selector].filter(pa.array(mine)).cast(pa.string())
        rows[f"{selector.removesuffix('_score')}_version"] = version.to_pandas()
        if "spread" in own and "spread" not in rows:
            rows["spread"] = own["spread"].to_numpy()
    return ids, rows, wanted


def _of_corpus(path: Path) -> npt.NDArray[np.bool_]:
    """(rows,) whether each row of the table is of split "corpus"."""
    splits = pa.chunked_array([batch["split"].cast(pa.string()) for _, batch in batches(path, ["split"])], pa.string())
    return np.asarray(pc.equal(splits, "corpus").fill_null(False).to_numpy(), dtype=bool)
