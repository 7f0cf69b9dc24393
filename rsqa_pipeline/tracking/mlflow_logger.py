"""Runs, data sets and registered models in MLflow.

One parent run per pipeline run, one nested run per asset that trains or measures something.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")

import mlflow
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.git import commit
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.services.databases import check_database, protect
from rsqa_pipeline.tracking.pyfunc_files import MLMODEL, MODEL_ARTIFACT, model_kind, write_pyfunc_files
from rsqa_pipeline.versions import folder_version

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # reports the tables of each new database
_REVISIONS = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
_ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow stores absolute URIs of artifacts."""
PROMOTED_MODEL = "score_model"
"""The only model that `rsqa promote` can give the alias ``champion``."""
_MAX_DIGEST = 36  # length of the tracking store's column; "<md5>.dir" has exactly this length


class MlflowTracking:
    """The tracking store of one profile: SQLite and artifacts under the profile's state folder, unless
    ``MLFLOW_TRACKING_URI`` names a server."""

    def __init__(self, profile: Profile) -> None:
        """
        Raises:
            DataError: the local database is corrupt, locked, read-only or of another version of MLflow.
        """
        self.state = profile.state.resolve()
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.profile = profile.name
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = server or f"sqlite:///{self._database()}"
        # a server decides itself where artifacts go
        self._artifacts = None if server else (self.state / "mlruns").as_uri()
        self.client = mlflow.MlflowClient(self.uri, registry_uri=self.uri)

    def parent_run(self, pipeline_run: str) -> str:
        """Id of the parent run of a pipeline run, created on first use. Safe with several processes."""
        with self._lock():
            experiment = self._experiment()
            if (found := self._parent(pipeline_run)) is not None:
                return found
            tags = {
                "dagster.run_id": pipeline_run,
                "rsqa.role": "parent",
                "rsqa.profile": self.profile,
                "git.sha": commit(),
            }
            return str(
                self.client.create_run(experiment, run_name=f"pipeline {pipeline_run[:8]}", tags=tags).info.run_id
            )

    def _parent(self, pipeline_run: str) -> str | None:
        wanted = f"tags.`dagster.run_id` = '{pipeline_run}' and tags.`rsqa.role` = 'parent'"
        found = self.client.search_runs([self._experiment()], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    @contextmanager
    def asset_run(self, asset: str, pipeline_run: str, inputs: Mapping[str, Path]) -> Iterator[MlflowLogger]:
        """A nested run for one asset, with its input data sets and their digests. The parent run is open meanwhile."""
        parent = self.parent_run(pipeline_run)
        self.client.update_run(parent, status="RUNNING")
        tags = {
            "mlflow.parentRunId": parent,
            "dagster.run_id": pipeline_run,
            "dagster.asset": asset,
            "git.sha": commit(),
        }
        run_id = self.client.create_run(self._experiment(), run_name=asset, tags=tags).info.run_id
        try:
            self._log_inputs(run_id, inputs)
            yield MlflowLogger(self.client, run_id, asset)
        except BaseException:
            self._close(run_id, parent, "FAILED")
            raise
        self._close(run_id, parent, "FINISHED")

    def _close(self, run_id: str, parent: str, status: str) -> None:
        """Ends a nested run and its parent, which has failed if any of its runs has."""
        self.client.set_terminated(run_id, status)
        failed = self.client.search_runs(
            [self._experiment()],
            f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FAILED'",
            max_results=1,
        )
        self.client.set_terminated(parent, "FAILED" if failed else "FINISHED")

    def finish(self, pipeline_run: str, succeeded: bool) -> None:
        """Closes the parent run of a pipeline run, if anything was tracked in it, and what a kill left open below."""
        parent = self._parent(pipeline_run)
        if parent is None:
            return
        still_open = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
        for run in self.client.search_runs([self._experiment()], still_open):
            self.client.set_terminated(run.info.run_id, "FAILED")
        self.client.set_terminated(parent, "FINISHED" if succeeded else "FAILED")

    def version_at(self, model: str, alias: str) -> str | None:
        """The version that ``models:/model@alias`` points to; None if there is none.

        Raises:
            DataError: the alias is ``champion``, but no promotion made this version the champion.
        """
        try:
            found = self.client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise
        if alias == "champion" and not _was_promoted(found):
            raise DataError(
                f"{model} version {found.version} of the registry has the alias champion, but `rsqa promote` did not "
                "promote it; delete the alias or move it back, and run `rsqa promote`"
            )
        return str(found.version)

    def download(self, model: str, version: str) -> Path:
        """A local folder with a registered version's files.

        Raises:
            DataError: the weights are not those that were registered, or the version's tags are missing.
        """
        # the artifact URI, because a models:/ URI would be resolved in the registry of the current process
        source = self.client.get_model_version_download_uri(model, version)
        folder = Path(mlflow.artifacts.download_artifacts(source))
        recorded = _tags(self.client.get_model_version(model, version))["weights_version"]
        found = weights_version(folder)
        if found != recorded:
            raise DataError(
                f"{model} version {version} of the registry: the weights in {folder} are {found[:12]}, registered were "
                f"{recorded[:12]}; restore the folder, or delete this version from the registry and train again"
            )
        return folder

    def versions(self) -> list[ModelVersion]:
        """Every registered version with its tags, by name and number; their aliases are in `aliases`."""
        found = self.client.search_model_versions()
        return sorted(found, key=lambda version: (version.name, int(version.version)))

    def aliases(self, model: str) -> dict[str, str]:
        """Alias -> version of a registered model."""
        found = self.client.get_registered_model(model).aliases
        return {alias: str(found[alias]) for alias in sorted(found)}

    def add_pyfunc_files(self, version: ModelVersion) -> None:
        """Makes a version that an earlier version of this package registered loadable with `mlflow.pyfunc`.

        Raises:
            DataError: like `download`.
        """
        held = {Path(file.path).name for file in self.client.list_artifacts(version.run_id, MODEL_ARTIFACT)}
        if MLMODEL not in held:
            _log_pyfunc_files(self.client, version.run_id, self.download(version.name, str(version.version)))

    def record_decision(self, model: str, version: str, decision: Mapping[str, object], promoted: bool) -> None:
        """Stores a promotion decision with the version. If promoted, moves the alias ``champion`` to it."""
        self.client.set_model_version_tag(
            model, version, "rsqa.promotion", json.dumps({**decision, "promoted": promoted})
        )
        if promoted:
            self.client.set_registered_model_alias(model, "champion", version)

    def _database(self) -> Path:
        """The SQLite file, created on first use.

        It is created under a temporary name and then renamed: MLflow builds its tables in many steps, and a process
        killed in between would leave a database that cannot be opened.
        """
        path, scratch = self.state / "mlflow.db", self.state / "mlflow.db.scratch"
        with self._lock():
            if not path.is_file():
                scratch.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{scratch}").search_experiments()
                protect([scratch])
                scratch.rename(path)
            check_database(path, _REVISIONS)
            protect([path])
            self._follow_move(path)
        return path

    def _follow_move(self, path: Path) -> None:
        """Points stored artifact URIs at this checkout: MLflow makes them absolute, so in a copied or moved checkout
        they would lead to the original."""
        here = (self.state / "mlruns").as_uri()
        with closing(sqlite3.connect(path)) as connection, connection:
            experiment = connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (self._experiment_name,)
            ).fetchone()
            if experiment is None or experiment[0] == here:
                return
            there = experiment[0]
            for table, column in _ARTIFACT_COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
                )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.state / "mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def _experiment_name(self) -> str:
        return f"rsqa-{self.profile}"

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self._experiment_name)
        if found is None:
            try:
                return str(self.client.create_experiment(self._experiment_name, artifact_location=self._artifacts))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(self._experiment_name)  # another checkout was faster
        return str(found.experiment_id)

    def _log_inputs(self, run_id: str, inputs: Mapping[str, Path]) -> None:
        with warnings.catch_warnings():
            # A plain folder matches two MLflow source types that are equivalent.
            warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
            sources = {name: resolve_dataset_source(str(folder)) for name, folder in inputs.items()}
        datasets = [
            mlflow.entities.DatasetInput(
                dataset=MetaDataset(
                    sources[name],
                    name=name,
                    digest=folder_version(folder)[:_MAX_DIGEST],
                )._to_mlflow_entity(),
                tags=[mlflow.entities.InputTag("mlflow.data.context", "input")],
            )
            for name, folder in inputs.items()
        ]
        if datasets:
            self.client.log_inputs(run_id, datasets)


class MlflowLogger:
    """`RunLogger` of one nested run."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str, asset: str) -> None:
        self.client, self.run_id, self.asset = client, run_id, asset

    def log_params(self, params: Mapping[str, object]) -> None:
        self.client.log_batch(self.run_id, params=[mlflow.entities.Param(k, str(v)[:6000]) for k, v in params.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = mlflow.utils.time.get_current_time_millis()
        entries = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=entries)

    def log_model(self, name: str, folder: Path) -> None:
        """Copies the folder into the run's artifacts with what `mlflow.pyfunc` needs beside it, registers it and moves
        the alias ``challenger`` to it."""
        self.client.log_artifacts(self.run_id, str(folder), MODEL_ARTIFACT)
        _log_pyfunc_files(self.client, self.run_id, folder)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/{MODEL_ARTIFACT}"
        tags = {"rsqa.asset": self.asset, "rsqa.weights_version": weights_version(folder)}
        version = self.client.create_model_version(name, source=source, run_id=self.run_id, tags=tags).version
        self.client.set_registered_model_alias(name, "challenger", version)

    def record_output(self, data_version: str, metrics: Mapping[str, float]) -> None:
        """Records the output's data version in the run and in the model versions that the run registered."""
        self.log_metrics(metrics)
        self.client.set_tag(self.run_id, "dvc.md5", data_version)
        for version in self.client.search_model_versions(f"run_id = '{self.run_id}'"):
            self.client.set_model_version_tag(version.name, version.version, "dvc.md5", data_version)


def _log_pyfunc_files(client: mlflow.MlflowClient, run_id: str, folder: Path) -> None:
    """Adds `pyfunc_files` of the model in ``folder`` to the run's MODEL_ARTIFACT; none to a model of a kind that
    has no loader."""
    kind = model_kind(folder)
    if kind is None:
        return
    with TemporaryDirectory() as scratch:
        write_pyfunc_files(kind, weights_version(folder), run_id, Path(scratch))
        client.log_artifacts(run_id, scratch, MODEL_ARTIFACT)


def registered_version(tracking: MlflowTracking, reference: str) -> dict[str, str]:
    """Asset and versions of ``models:/name@alias`` or ``models:/name/number``, whose weights were compared.

    Raises:
        DataError: there is no such version, its tags are missing, its weights have changed, or it is a champion that
            was never promoted.
    """
    name, separator, alias = reference.removeprefix("models:/").partition("@")
    try:
        if separator:
            tracking.version_at(name, alias)
            version = tracking.client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = name.partition("/")
            version = tracking.client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code == "INTERNAL_ERROR":  # the registry does not answer, so nothing more can be asked
            raise DataError(f"the registry cannot be read for {reference}: {' '.join(str(error).split())}") from error
        raise DataError(_not_registered(tracking, name, reference)) from error
    tracking.download(name, str(version.version))
    return {"model": name, "version": str(version.version), "run_id": version.run_id or "", **_tags(version)}


def _not_registered(tracking: MlflowTracking, name: str, reference: str) -> str:
    """What the registry holds in place of a reference that it does not have, and the next step."""
    versions = tracking.versions()
    of_name = [version for version in versions if version.name == name]
    if not of_name:
        known = ", ".join(dict.fromkeys(version.name for version in versions)) or "no model"
        return (
            f"the registry has no {reference}, it holds {known}; `rsqa run {name}` makes and registers a model, "
            "`rsqa models` registers those that came with `dvc pull`"
        )
    if name == PROMOTED_MODEL and reference.endswith("@champion"):
        return f"the registry has no {reference}: no version was promoted here; `rsqa promote` judges the challenger"
    numbers = ", ".join(str(version.version) for version in of_name)
    aliases = ", ".join(tracking.aliases(name)) or "none"
    return f"the registry has no {reference}; versions of {name}: {numbers}, aliases: {aliases}; name one of them"


def _tags(version: ModelVersion) -> dict[str, str]:
    """Asset, data version and weights version that were recorded with a registered version."""
    wanted = {"asset": "rsqa.asset", "data_version": "dvc.md5", "weights_version": "rsqa.weights_version"}
    missing = [tag for tag in wanted.values() if tag not in version.tags]
    if missing:
        raise DataError(
            f"{version.name} version {version.version} of the registry has no tag {', '.join(missing)}, so it was not "
            "registered by a finished run; delete this version and train again"
        )
    return {name: version.tags[tag] for name, tag in wanted.items()}


def _was_promoted(version: ModelVersion) -> bool:
    try:
        return bool(json.loads(version.tags["rsqa.promotion"])["promoted"])
    except (KeyError, ValueError, TypeError):
        return False
