"""The servers that the environment names, asked before any work: one that does not answer is one line at once, instead
of minutes of retries in the middle of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.services.databases import DAGSTER_CONFIG, shared_dagster_config

TRACKING = "MLFLOW_TRACKING_URI"
WAIT_SECONDS = 8
"""How long a server may take to answer, unless the variables of its client say how long."""
_PARAMETERS = {"hostname": "host", "port": "port", "username": "user", "password": "password", "db_name": "dbname"}
"""Key of ``postgres_db`` in a dagster.yaml -> connection parameter of libpq."""
_SEARCH = "/api/2.0/mlflow/experiments/search"


def refuse_silent_services() -> None:
    """Returns if the MLflow server and the Postgres of a shared Dagster instance answer, or none is named.

    Raises:
        UsageError: one does not, or the configuration of the instance cannot be read.
    """
    addresses = list(_dagster_databases())  # a mistake in the configuration is found first: it takes no time
    refuse_silent_mlflow()
    for address in addresses:
        _refuse_silent_postgres(f"{DAGSTER_CONFIG} names Postgres at", address)


def refuse_silent_mlflow() -> None:
    """Returns if the tracking server of ``MLFLOW_TRACKING_URI`` answers, or the variable names none.

    Raises:
        UsageError: it does not answer, or not as an MLflow server.
    """
    address = os.environ.get(TRACKING, "")
    if address.startswith("postgres"):
        _refuse_silent_postgres(f"{TRACKING} names Postgres at", _parsed(address))
    elif address.startswith(("http://", "https://")) and (fault := _mlflow_fault(address)):
        shown = re.sub(r"//[^/@]*@", "//", address)
        raise UsageError(
            f"{TRACKING} names {shown}, which {fault}; start the MLflow server or correct the variable, and run again"
        )


def _mlflow_fault(address: str) -> str | None:
    """What is wrong with the reply; None for the JSON of a server that works, also if it refuses this question."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    asked = {"max_retries": 0, "timeout": WAIT_SECONDS}
    own = {"max_retries": "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "timeout": "MLFLOW_HTTP_REQUEST_TIMEOUT"}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if own[name] not in os.environ}
    try:
        credentials = get_default_host_creds(address)
        reply = http_request(credentials, _SEARCH, "POST", json={"max_results": 1}, raise_on_status=False, **chosen)
    except MlflowException as error:
        return _connection_fault(error)
    if reply.status_code == 401:
        return "refuses the credentials (401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    try:
        sound = isinstance(reply.json(), dict)
    except ValueError:
        sound = False
    if sound and reply.status_code < 500:
        return None
    what = "an error" if sound else "no JSON, so not as an MLflow server"
    return f"answers {reply.status_code} with {what}"


def _connection_fault(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "refuses connections"
        if isinstance(cause, TimeoutError):
            return "does not answer in time"
        cause = cause.__cause__ or cause.__context__
    return f"cannot be asked ({' '.join(str(error).split())[:300]})"


def _dagster_databases() -> Iterator[dict[str, str]]:
    """Connection parameters of every Postgres in the configuration of a shared instance."""
    content = shared_dagster_config()
    try:
        waiting = [] if content is None else [yaml.safe_load(content)]
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{DAGSTER_CONFIG} names {os.environ[DAGSTER_CONFIG]}, which is not YAML: {reason}") from error
    while waiting:
        found = waiting.pop()
        if not isinstance(found, dict):
            continue
        if "postgres_url" in found:
            yield _parsed(_value(found["postgres_url"]))
        elif isinstance(found.get("postgres_db"), dict):
            parts = found["postgres_db"]
            yield {name: _value(parts[key]) for key, name in _PARAMETERS.items() if key in parts}
        else:
            waiting += found.values()


def _value(written: Any) -> str:
    """A value of the configuration, which may name an environment variable."""
    if not isinstance(written, Mapping):
        return str(written)
    name = str(written.get("env"))
    if not os.environ.get(name):
        raise UsageError(f"{os.environ[DAGSTER_CONFIG]} reads the variable {name}, which is not set; set it")
    return os.environ[name]


def _parsed(address: str) -> dict[str, str]:
    """Connection parameters of an address of SQLAlchemy, which may name the driver."""
    psycopg2 = _driver()
    plain = re.sub(r"^postgres(ql)?(\+\w+)?:", "postgresql:", address)
    try:
        found: dict[str, str] = psycopg2.extensions.parse_dsn(plain)
    except psycopg2.ProgrammingError as error:
        raise UsageError("the address of Postgres cannot be read; it needs postgresql://USER@HOST/DATABASE") from error
    return found


def _refuse_silent_postgres(named: str, address: Mapping[str, str]) -> None:
    psycopg2 = _driver()
    wait = {} if "PGCONNECT_TIMEOUT" in os.environ else {"connect_timeout": WAIT_SECONDS}
    try:
        psycopg2.connect(**{**wait, **address}).close()  # a time in the address holds
    except psycopg2.OperationalError as error:
        shown = f"{address.get('host', 'the local socket')}:{address.get('port', 5432)}/{address.get('dbname', '')}"
        raise UsageError(
            f"{named} {shown}, which cannot be used ({' '.join(str(error).split())}); start it or correct the address, "
            "and run again"
        ) from error


def _driver() -> Any:
    try:
        import psycopg2
        import psycopg2.extensions
    except ImportError as error:
        raise UsageError("Postgres needs a driver; pip install 'rsqa-pipeline[deploy]'") from error
    return psycopg2
