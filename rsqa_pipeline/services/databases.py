"""State databases (SQLite files of Dagster and MLflow): checked before use, so that a fault is one line."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from rsqa_pipeline.errors import DataError, UsageError

DAGSTER_CONFIG = "RSQA_DAGSTER_CONFIG"
"""Environment variable: a ``dagster.yaml`` for an instance that several checkouts share, in place of the profile's own
SQLite files."""
WAIT_SECONDS = 5.0
"""How long another process may hold a database before it counts as locked."""


def shared_dagster_config() -> bytes | None:
    """Content of the ``dagster.yaml`` of a shared instance; None if this profile has an instance of its own.

    Raises:
        UsageError: the file cannot be read.
    """
    path = os.environ.get(DAGSTER_CONFIG)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{DAGSTER_CONFIG} names {path}, which cannot be read: {error.strerror}") from error


def check_database(path: Path, revisions: Path) -> None:
    """Returns if the database is sound, can be written, and has a schema that the installed package knows. A missing
    file is fine: its owner creates it.

    Args:
        revisions: folder of the package's Alembic migrations.

    Raises:
        DataError: it is corrupt, locked, read-only or of another version of the package.
    """
    if not path.exists():
        return
    move = shlex.join(["mv", str(path), f"{path}.bad"])
    aside = f"move it away ({move}) and run again: a new one is made, outputs and manifests are not touched"
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise DataError(f"{path} is corrupt ({' '.join(str(verdict).split())}); {aside}")
            connection.execute("BEGIN IMMEDIATE")
            found = _revision(connection)
            connection.execute("UPDATE alembic_version SET version_num = version_num" if found else "SELECT 1")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} {_fault(error, aside)}") from error
    if found and not _is_known(found, revisions):
        raise DataError(
            f"{path} was written by another version of its package (schema {found}); install that version, or {aside}"
        )


def protect(paths: Iterable[Path]) -> None:
    """Makes databases readable by their owner only: they hold addresses of servers."""
    for path in paths:
        path.chmod(0o600)


def _revision(connection: sqlite3.Connection) -> str | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _is_known(revision: str, folder: Path) -> bool:
    return any(revision in file.read_text(encoding="utf-8") for file in folder.glob("*.py"))


def _fault(error: sqlite3.DatabaseError, aside: str) -> str:
    words = str(error)
    if "locked" in words:
        return "is locked by another process; wait for it to finish, or stop it, and run again"
    if "readonly" in words or "unable to open" in words:
        return f"cannot be written ({words}); check mode and owner of the file and its folder, and run again"
    if "full" in words:
        return "cannot be written: the disk is full; free space, and run again"
    return f"is corrupt ({words}); {aside}"
