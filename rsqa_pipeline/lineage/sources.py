"""Where a sample's text stands in the file that it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.lineage.columns import Mask, read_last_turns, read_rows
from rsqa_pipeline.profile import Profile, SourceFile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import SourceRow

GENERATED = "generated scene"
"""Source of samples that no file holds; their row is the seed of the scene."""


def with_source_rows(
    profile: Profile, asset: str, folder: Path, ids: pa.ChunkedArray, samples: pd.DataFrame, wanted: Mask
) -> pd.DataFrame:
    """The samples with ``source_file`` and ``source_row``: a row number of a scenes' file, the reader's id of others.

    Args:
        ids: of the samples.
        samples: column ``image``; rows of samples.parquet in its order.
        wanted: (rows of samples.parquet,) whether each is among the samples.
    """
    pairs = profile.source_pairs
    file = pairs.captions if TABLES[asset] == "caption" else pairs.instructions
    if file is None or (file.format == "scenes" and file.path is None):
        scenes = _truth(folder, ids, wanted, ["scene"])["scene"]
        return samples.assign(source_file=GENERATED, source_row=scenes.to_numpy())
    truth = _truth(folder, ids, wanted, ["scene", "original_text"])
    texts = pc.coalesce(truth["original_text"], read_last_turns(folder / "samples.parquet", wanted))
    rows: npt.NDArray[np.generic]
    if file.format == "scenes":
        rows = _lines_of_scenes(Path(str(file.path)), truth["scene"], texts)
    else:
        rows = _keys_of_reader(file, samples["image"].tolist(), texts.to_pylist())
    return samples.assign(source_file=str(file.path), source_row=rows)


def among(values: pa.ChunkedArray, wanted: pa.ChunkedArray) -> Mask:
    """Which values are wanted."""
    return np.asarray(pc.is_in(values, value_set=wanted).to_numpy(), dtype=bool)


def _truth(folder: Path, ids: pa.ChunkedArray, wanted: Mask, columns: Sequence[str]) -> pa.Table:
    """One row of truth.parquet per id, mostly written in the order of samples.parquet."""
    path = folder / "truth.parquet"
    if pq.read_metadata(path).num_rows == len(wanted):
        rows = read_rows(path, ["sample_id", *columns], wanted)
        if rows["sample_id"].equals(ids):
            return rows
    table = pq.read_table(path, columns=["sample_id", *columns])
    return table.take(pc.index_in(ids, value_set=table["sample_id"]))


def _lines_of_scenes(path: Path, scenes: pa.ChunkedArray, texts: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """The first line, from 1, of each scene and text in a file of scenes; missing where the file has none.

    Both become codes and the pair one number, so that a text of the file is looked up once and none is copied.
    """
    types = {"scene": pa.int64(), "caption": pa.string()}
    options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types))
    lines = pa.csv.read_csv(path, convert_options=options)
    codes = [column.combine_chunks().dictionary_encode() for column in (scenes, texts)]
    place = pc.multiply(codes[0].indices.cast(pa.int64()), len(codes[1].dictionary))
    pairs = pc.add(place, codes[1].indices.cast(pa.int64()))
    found = [
        pc.index_in(lines[name], value_set=code.dictionary, skip_nulls=True).cast(pa.int64())
        for name, code in zip(types, codes, strict=True)
    ]
    known = pc.add(pc.multiply(found[0], len(codes[1].dictionary)), found[1])
    rows = pc.add(pc.index_in(pairs, value_set=known, skip_nulls=True).cast(pa.int64()), 1)
    return np.asarray(rows.to_numpy(zero_copy_only=False))


def _keys_of_reader(file: SourceFile, images: Sequence[str], texts: Sequence[str | None]) -> npt.NDArray[np.object_]:
    """The reader's id of the first row with each image's name and text; None where the file has none."""
    wanted = [(Path(image).name, str(text)) for image, text in zip(images, texts, strict=True)]
    known: dict[tuple[str, str], str | None] = dict.fromkeys(wanted)
    for entry in read_source(file):
        if isinstance(entry, SourceRow):
            pair = (Path(entry.image).name, entry.messages[-1]["content"])
            if pair in known and known[pair] is None:
                known[pair] = entry.key
    rows = np.empty(len(wanted), dtype=object)
    rows[:] = [known[pair] for pair in wanted]
    return rows
