"""Records outputs in ``dvc.lock``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.scm import SCMError
from dvc.stage import PipelineStage

from rsqa_pipeline.errors import DataError


def commit_outputs(names: Sequence[str]) -> None:
    """As `dvc commit --force` for each, but dvc.yaml and dvc.lock, slow to parse, are read and written once.

    Raises:
        DataError: DVC cannot record them; says what to do.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)  # a line for each asset says nothing new
    try:
        _commit(names)
    except DvcException as error:
        raise DataError(
            f"the outputs are made, but DVC could not record them ({' '.join(str(error).split())}); restore dvc.yaml "
            "and dvc.lock (`git checkout dvc.yaml dvc.lock`), and run the same command again"
        ) from error


def _commit(names: Sequence[str]) -> None:
    with _repository() as repo, lock_repo(repo):
        by_name = {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}
        stages = [by_name[name] for name in names]
        for stage in stages:
            stage.save()
            stage.commit()
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


def _repository() -> Repo:
    """The DVC repository of the current folder, also where it is not in a git checkout."""
    try:
        return Repo(".")
    except SCMError:
        return Repo(".", config={"core": {"no_scm": True}})
