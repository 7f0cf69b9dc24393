"""`rsqa ui`: the Dagster UI and MLflow of a profile, on this machine alone, until interrupted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Annotated

import typer

from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.cli.processes import INTERRUPTED, stop_group, stop_signals
from rsqa_pipeline.cli.terminal import make_console
from rsqa_pipeline.errors import EngineError, UsageError
from rsqa_pipeline.profile import Profile, default_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_services

HOST = "127.0.0.1"
DAGSTER_PORT, MLFLOW_PORT = 3000, 5000
_POLL_SECONDS = 0.2

console = make_console()
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port on 127.0.0.1; default: a free one.")]


def ui(
    profile: ProfileOption = None,
    port: Port = None,
    mlflow_port: Port = None,
) -> None:
    """Open the Dagster UI and MLflow of a profile, until Ctrl-C or SIGTERM.

    Both listen on this machine only and refuse requests for another host name. Runs that are started there, by the
    sensor or by the schedule leave the same records as `rsqa run`. If MLFLOW_TRACKING_URI names a server, that one is
    used and none is started.
    """
    ports = [_usable(port, "--port", DAGSTER_PORT), _usable(mlflow_port, "--mlflow-port", MLFLOW_PORT)]
    if ports[0] == ports[1]:
        raise UsageError(f"--port and --mlflow-port are both {ports[0]}; choose two different ports")
    name = profile or default_profile()
    settings = load_profile(name)
    refuse_silent_services()
    commands, mlflow = _commands(settings, name, *ports)
    children: dict[str, subprocess.Popen[bytes]] = {}
    with stop_signals():
        try:
            for what, words in commands.items():
                children[what] = subprocess.Popen(words, env=dict(os.environ), start_new_session=True)
            console.print(f"Dagster: http://{HOST}:{ports[0]}\nMLflow:  {mlflow}\nCtrl-C stops what runs here")
            while True:
                ended = [what for what, child in children.items() if child.poll() is not None]
                if ended:
                    raise EngineError(
                        f"{ended[0]} ended with status {children[ended[0]].returncode}; its last words are above"
                    )
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:
            for child in children.values():
                stop_group(child)


def _commands(settings: Profile, name: str, port: int, mlflow_port: int) -> tuple[dict[str, list[str]], str]:
    """The processes by their names, and MLflow's address. Sets the environment that they share."""
    from assets.dagster_run import prepare_environment
    from assets.metadata import MLFLOW_ADDRESS
    from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking

    prepare_environment(settings, name)
    python = [sys.executable, "-m"]
    commands = {
        "the Dagster UI": [*python, "assets.webserver", str(port)],
        "the Dagster daemon": [*python, "dagster._daemon", "run", "-w", "workspace.yaml"],
    }
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        address = f"http://{HOST}:{mlflow_port}"
        store = ["--backend-store-uri", MlflowTracking(settings).uri]
        served = ["--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
        commands["MLflow"] = [*python, "mlflow", "server", *store, *served]
    os.environ[MLFLOW_ADDRESS] = address  # for the links on the asset pages
    return commands, address


def _usable(port: int | None, option: str, default: int) -> int:
    """The port if it is free; without one the default port if it is free, else any.

    Raises:
        UsageError: the given port cannot be used.
    """
    for wanted in [port] if port is not None else [default, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            try:
                probe.bind((HOST, wanted))
            except OSError as error:
                if port is not None:
                    raise UsageError(
                        f"{option} {port} on {HOST} cannot be used: {error.strerror}; choose another, or none for a "
                        "free one"
                    ) from error
                continue
            return int(probe.getsockname()[1])
    raise UsageError(f"no TCP port of {HOST} is free")
