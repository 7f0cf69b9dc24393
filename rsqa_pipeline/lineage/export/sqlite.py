"""The records as a SQLite database: one table of records, and one of what each was made from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rsqa_pipeline.lineage.links import record_hash

_TABLES = """
CREATE TABLE records (
    record TEXT PRIMARY KEY, asset TEXT NOT NULL, number INTEGER NOT NULL, data_version TEXT NOT NULL,
    code_version TEXT NOT NULL, weights TEXT, started TEXT, seconds REAL, git_commit TEXT, git_changed_files TEXT,
    dagster_run TEXT, mlflow_run TEXT, settings TEXT NOT NULL, metrics TEXT NOT NULL, checks TEXT NOT NULL,
    run TEXT NOT NULL, UNIQUE (asset, number)
);
CREATE TABLE inputs (
    record TEXT NOT NULL REFERENCES records, kind TEXT NOT NULL CHECK (kind IN ('asset', 'source')),
    name TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (record, kind, name)
) WITHOUT ROWID;
"""
_RUN = ("started", "seconds", "git_commit", "git_changed_files", "dagster_run", "mlflow_run")


def write_sqlite(records: Mapping[str, list[dict[str, Any]]], out: Path) -> int:
    """Writes the tables ``records`` and ``inputs``; returns the number of records.

    ``record`` is the record's hash, ``number`` its place among the asset's, from 1. Settings, metrics, checks and the
    facts of the run are JSON; a missing value is NULL.
    """
    out.touch(mode=0o600)  # settings may hold addresses of servers, as in the manifests themselves
    count = 0
    with closing(sqlite3.connect(out)) as database, database:
        database.executescript(_TABLES)
        for name, made in records.items():
            for number, record in enumerate(made, start=1):
                key, recipe = record_hash(record), record["recipe"]
                facts = [record["run"].get(fact) for fact in _RUN]
                parts = (recipe["settings"], record["metrics"], record["checks"], record["run"])
                texts = [json.dumps(part, sort_keys=True) for part in parts]
                head = [key, name, number, record["data_version"], recipe["code_version"], record.get("weights")]
                row = [*head, *facts, *texts]
                database.execute(f"INSERT INTO records VALUES ({', '.join('?' * len(row))})", row)
                for kind, part in (("asset", "inputs"), ("source", "sources")):
                    rows = [(key, kind, *pair) for pair in recipe[part].items()]
                    database.executemany("INSERT INTO inputs VALUES (?, ?, ?, ?)", rows)
                count += 1
    return count
