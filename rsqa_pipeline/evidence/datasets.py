"""A published subset as a data set: its rows as one Parquet file, described by Croissant with its RAI fields."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.evidence.project import Project
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.lineage.rows import training_samples
from rsqa_pipeline.lineage.trace import trace
from rsqa_pipeline.records import canonical_messages

TABLE, CROISSANT = "samples.parquet", "croissant.json"
COLUMNS = {
    "sample_id": (pa.string(), "sha256 of the image's id and the messages of the corpus"),
    "image_id": (pa.string(), "sha256 of the image's bytes; the image itself is not part of this data set"),
    "kind": (pa.string(), "caption or instruction"),
    "task": (pa.string(), "what is asked, or caption"),
    "messages": (pa.string(), "JSON: chat turns with role and content, as models are trained on them"),
    "scene_class": (pa.string(), "class of the scene, if the source knows it"),
    "source": (pa.string(), "who wrote the text: a captioner or a data set"),
    "source_file": (pa.string(), "file that the text was read from"),
    "source_row": (pa.string(), "row of that file, or the seed of a generated scene"),
    "score_model": (pa.float64(), "score of the score model, unbounded"),
    "score_model_version": (pa.string(), "version of the score model's weights"),
    "clip_score": (pa.float64(), "cosine of image and text by CLIP, -1 to 1"),
    "clip_version": (pa.string(), "version of CLIP's weights"),
    "rank": (pa.int64(), "place among the samples that the rule ranked, from 1"),
    "rule": (pa.string(), "the rule that kept the sample"),
}
"""Columns of TABLE: type and description. A value that is not known is missing."""


def write_dataset(project: Project, subset: str, facts: dict[str, Any], out: Path) -> None:
    """Writes TABLE and CROISSANT of a subset into ``out``.

    Args:
        facts: of `cards.data_facts`.

    Raises:
        DataError: the loader of `mlcroissant` does not read back what was written.
    """
    rows = _rows(project, subset)
    schema = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / TABLE)
    with _quiet():
        metadata = _metadata(project, subset, facts, out / TABLE)
        text = json.dumps(metadata.to_json(), indent=1, ensure_ascii=False, default=str)
        (out / CROISSANT).write_text(text + "\n", encoding="utf-8")
    read = first_records(out, 1)
    if rows and read[0]["sample_id"] != rows[0]["sample_id"]:
        raise DataError(f"{out / CROISSANT}: the first record is {read[0]['sample_id']}, not {rows[0]['sample_id']}")


def first_records(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first records as the loader of `mlcroissant` gives them; texts are str, a missing value is None.

    Raises:
        DataError: it finds a fault in the description.
    """
    with _quiet():
        try:
            loaded = mlc.Dataset(jsonld=str(folder / CROISSANT))
        except mlc.ValidationError as error:
            raise DataError(f"{folder / CROISSANT}: {error}") from error
        found = list[dict[str, Any]]()
        for record in loaded.records("samples"):
            if len(found) == count:
                break
            values = {key.rpartition("/")[2]: value for key, value in record.items()}
            found.append({key: value.decode() if isinstance(value, bytes) else value for key, value in values.items()})
    return found


def _rows(project: Project, subset: str) -> list[dict[str, Any]]:
    """The samples that the subset keeps, sorted by id."""
    profile = project.profile
    links = training_samples(profile, trace(profile, subset)).set_index("sample_id")
    inputs = {name: project.folder(name) for name in (subset, *TABLES) if name in project.standing}
    kinds = {asset: kind for asset, kind in TABLES.items() if (links["kind"] == kind).any()}
    rows = []
    for asset, kind in kinds.items():
        for sample in subset_samples(inputs, subset.removeprefix("subset_"), asset, kind):
            known = links.loc[sample["sample_id"]].to_dict()
            row = {**known, **sample, "messages": canonical_messages(sample["messages"])}
            row["source_row"] = None if pd.isna(row["source_row"]) else str(row["source_row"])
            rows.append({name: None if pd.isna(row.get(name)) else row[name] for name in COLUMNS})
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def _metadata(project: Project, subset: str, facts: dict[str, Any], table: Path) -> mlc.Metadata:
    sha256 = hashlib.sha256(table.read_bytes()).hexdigest()
    file = mlc.FileObject(
        id=TABLE, name=TABLE, content_url=TABLE, encoding_formats=["application/x-parquet"], sha256=sha256
    )
    kinds = {pa.float64(): mlc.DataType.FLOAT, pa.int64(): mlc.DataType.INTEGER}
    fields = [
        mlc.Field(
            id=f"samples/{name}",
            name=name,
            description=description,
            data_types=[kinds.get(kind, mlc.DataType.TEXT)],
            source=mlc.Source(file_object=TABLE, extract=mlc.Extract(column=name)),
        )
        for name, (kind, description) in COLUMNS.items()
    ]
    return mlc.Metadata(
        name=f"{project.profile.name}-{subset}",
        description=facts["description"],
        version=facts["version"],
        date_published=project.newest,
        conforms_to=["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        keywords=["remote sensing", "image-text"],
        distribution=[file],
        record_sets=[mlc.RecordSet(id="samples", name="samples", description="one row per sample", fields=fields)],
        data_collection=facts["collection"],
        data_preprocessing_protocol=facts["preprocessing"],
        data_manipulation_protocol=facts["manipulation"],
        data_annotation_protocol=facts["annotation"],
        machine_annotation_tools=facts["tools"],
        data_biases=facts["biases"],
        data_limitations=facts["limits"],
        data_use_cases=facts["uses"],
        personal_sensitive_information=facts["personal"],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the advice of `mlcroissant` on fields that only the operator can fill, such as the license."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
