"""The records as OpenLineage events: a START and a COMPLETE event per record, in one file of JSON lines."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    dataset_version_dataset,
    job_type_job,
    parent_run,
    schema_dataset,
    source_code_location_job,
)
from openlineage.client.transport.file import FileConfig, FileTransport

from rsqa_pipeline import __version__
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.lineage.export.columns import ColumnLineage, ColumnSource, column_lineage, table_columns
from rsqa_pipeline.lineage.links import record_hash
from rsqa_pipeline.lineage.recorded import times
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version

_REPOSITORY = "https://github.com/rsqa-pipeline/rsqa-pipeline"
SOURCES = "file"
"""Namespace of outside files and folders; the name is the path as it was recorded."""

Columns = Mapping[tuple[str, str], Mapping[str, str]]
"""(Asset, version) -> types of its columns."""


def write_openlineage(profile: Profile, records: Mapping[str, list[dict[str, Any]]], out: Path) -> tuple[int, int]:
    """Appends the events to ``out``, oldest record first.

    Data sets are assets, in the namespace ``rsqa/<profile>``, and outside files, in SOURCES. The schema is stated for
    versions that are on disk, column lineage where `columns.column_lineage` knows it.

    Returns:
        Number of events, and of records that have no time and so no event: those that came with pulled data.

    Raises:
        UsageError: no record has a time, which each event needs.
    """
    timed = [(times(record), record) for made in records.values() for record in made]
    dated = sorted(
        ((when, record) for when, record in timed if when is not None), key=lambda pair: (pair[0], pair[1]["asset"])
    )
    if not dated:
        raise UsageError(
            "no record has the time of its run, which OpenLineage needs: they came with pulled data; export prov or "
            "sqlite, or export where the run was made"
        )
    set_producer(f"{_REPOSITORY}/tree/v{__version__}")
    transport = FileTransport(FileConfig(log_file_path=str(out), append=True))
    columns = _columns(profile)
    for when, record in dated:
        for state, time in zip((RunState.START, RunState.COMPLETE), when, strict=True):
            transport.emit(_event(profile, record, state, time.isoformat(), columns))
    return 2 * len(dated), len(timed) - len(dated)


def _columns(profile: Profile) -> Columns:
    folders = {name: asset.folder(profile) for name, asset in assets_of(profile).items()}
    return {(name, folder_version(path)): table_columns(path) for name, path in folders.items() if path.is_dir()}


def _event(profile: Profile, record: Mapping[str, Any], state: RunState, time: str, columns: Columns) -> RunEvent:
    space, recipe, run = f"rsqa/{profile.name}", record["recipe"], record["run"]
    inputs = [
        InputDataset(space, name, facets=_facets(version, columns.get((name, version))))
        for name, version in recipe["inputs"].items()
    ]
    inputs += [
        InputDataset(SOURCES, path, facets=_facets(version, None)) for path, version in recipe["sources"].items()
    ]
    facets = _facets(record["data_version"], columns.get((record["asset"], record["data_version"])))
    lineage = column_lineage(record)
    if lineage is not None:
        facets["columnLineage"] = _lineage_facet(space, lineage)
    runs: dict[str, Any] = {}
    if "dagster_run" in run:
        parent = parent_run.Job(space, "dagster")
        runs["parent"] = parent_run.ParentRunFacet(run=parent_run.Run(run["dagster_run"]), job=parent)
    jobs: dict[str, Any] = {"jobType": job_type_job.JobTypeJobFacet("BATCH", "DAGSTER", "ASSET")}
    if run.get("git_commit", "unknown") != "unknown":
        jobs["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
            "git", f"{_REPOSITORY}/tree/{run['git_commit']}", version=run["git_commit"]
        )
    return RunEvent(
        eventTime=time,
        eventType=state,
        run=Run(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{space}/{record['asset']}/{record_hash(record)}")), runs),
        job=Job(space, record["asset"], jobs),
        inputs=inputs,
        outputs=[OutputDataset(space, record["asset"], facets=facets)],
    )


def _facets(version: str, columns: Mapping[str, str] | None) -> dict[str, Any]:
    facets: dict[str, Any] = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(version)}
    if columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in columns.items()]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields)
    return facets


def _lineage_facet(space: str, lineage: ColumnLineage) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    def field(source: ColumnSource) -> column_lineage_dataset.InputField:
        kind = "INDIRECT" if source.how == "FILTER" else "DIRECT"
        change = column_lineage_dataset.Transformation(kind, source.how)
        return column_lineage_dataset.InputField(space, source.asset, source.column, [change])

    fields = {
        name: column_lineage_dataset.Fields([field(source) for source in sources])
        for name, sources in lineage.columns.items()
    }
    return column_lineage_dataset.ColumnLineageDatasetFacet(fields, [field(source) for source in lineage.rows])
