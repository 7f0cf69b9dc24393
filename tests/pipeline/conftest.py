"""One undisturbed run, which the tests of this folder read and compare with."""

from __future__ import annotations

import pytest

from tests.pipeline.project import Project, checkout


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout in which `rsqa run` has made everything, with a DVC remote that holds it."""
    root = tmp_path_factory.mktemp("undisturbed") / "project"
    made = checkout(root)
    made.call("rsqa", "run")
    made.call("dvc", "remote", "add", "-d", "local", str(root.parent / "remote"))
    made.commit("first run")
    made.call("dvc", "push", "-q")
    return made
