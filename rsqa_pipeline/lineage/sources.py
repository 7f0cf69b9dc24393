"""Where a sample's text stands in the file that it was read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import SourceRow

GENERATED = "generated scene"
"""Source of samples that no file holds; their row is the seed of the scene."""


def with_source_rows(profile: Profile, asset: str, folder: Path, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples with ``source_file`` and ``source_row``: a row number of a scenes' file, the reader's id of others.

    Args:
        samples: columns ``sample_id``, ``image``, ``source``, ``table_row`` (1-based row of samples.parquet).
    """
    pairs = profile.source_pairs
    file = pairs.captions if TABLES[asset] == "caption" else pairs.instructions
    if file is None or (file.format == "scenes" and file.path is None):
        scenes = pq.read_table(folder / "truth.parquet", columns=["sample_id", "scene"]).to_pandas()
        rows = scenes.set_index("sample_id")["scene"].reindex(samples["sample_id"]).to_numpy()
        return samples.assign(source_file=GENERATED, source_row=rows)
    texts = _texts(folder)
    texts = texts[among(texts.index.to_series(), samples["sample_id"])] if len(samples) < len(texts) else texts
    if file.format == "scenes":
        table = pa.csv.read_csv(file.path, convert_options=pa.csv.ConvertOptions(column_types={"scene": pa.int64()}))
        lines = table.select(["scene", "caption"]).to_pandas()
        lines = lines.assign(source_row=range(1, len(lines) + 1)).drop_duplicates(["scene", "caption"])
        keys = texts.reset_index().merge(lines, left_on=["scene", "text"], right_on=["scene", "caption"], how="left")
        found = keys.set_index("sample_id")["source_row"]
    else:
        known: dict[tuple[str, str], str] = {}
        for entry in read_source(file):
            if isinstance(entry, SourceRow):
                known.setdefault((Path(entry.image).name, entry.messages[-1]["content"]), entry.key)
        names = samples.set_index("sample_id")["image"].map(lambda image: Path(image).name)
        rows = [known.get((name, str(texts["text"].get(key)))) for key, name in names.items()]
        found = pd.Series(rows, index=names.index, dtype="object")
    return samples.assign(source_file=str(file.path), source_row=found.reindex(samples["sample_id"]).to_numpy())


def among(values: pd.Series, wanted: pd.Series) -> npt.NDArray[np.bool_]:
    """Which values are wanted. Both are texts; `pandas.Series.isin` makes Python objects of them, which takes long."""
    found = pc.is_in(pa.array(values, pa.string()), value_set=pa.array(wanted, pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _texts(folder: Path) -> pd.DataFrame:
    """Last turn of every sample as the source has it, and the scene; by ``sample_id``."""
    samples = pq.read_table(folder / "samples.parquet", columns=["sample_id", "messages"])
    truth = pq.read_table(folder / "truth.parquet", columns=["sample_id", "scene", "original_text"])
    messages = samples["messages"].combine_chunks()
    last = pc.subtract(messages.offsets[1:], 1)
    texts = pc.struct_field(messages.values, "content").take(last)
    scenes = truth.to_pandas().set_index("sample_id")
    found = pd.DataFrame({"text": texts.to_pandas()}).set_index(samples["sample_id"].to_pandas())
    if scenes.index.equals(found.index):
        found["scene"], original = scenes["scene"], scenes["original_text"]
    else:
        found["scene"], original = scenes["scene"].reindex(found.index), scenes["original_text"].reindex(found.index)
    found["text"] = original.where(original.notna(), found["text"])
    return found.rename_axis("sample_id")
