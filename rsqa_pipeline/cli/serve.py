"""`rsqa serve`: the score model as a reward server."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from rsqa_pipeline.cli.checks import compute_on, refuse_bad_model
from rsqa_pipeline.cli.processes import INTERRUPTED
from rsqa_pipeline.errors import DataError, ModelError, UsageError
from rsqa_pipeline.profile import Profile, default_profile, load_profile
from rsqa_pipeline.services.servers import refuse_silent_mlflow


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Score model: folder, hub id, or models:/score_model@champion of the profile's registry. "
            "Default: the profile's score model.",
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Whose model and registry. Default: the one in params.yaml.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines reach only others than this.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the model's backbone.")] = "float32",
    replicas: Annotated[
        int | None, typer.Option(help="Copies of the model. Default: one per GPU, or one on a CPU.", min=1)
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens that a replica scores at once.", min=1)] = 4096,
    image_host: Annotated[
        list[str] | None,
        typer.Option(help="Host whose image URLs are fetched, may be repeated. Default: no URL is fetched."),
    ] = None,
    max_completions: Annotated[int, typer.Option(help="Completions per request.", min=1)] = 256,
    max_body_mib: Annotated[int, typer.Option(help="MiB per request.", min=1, max=1024)] = 32,
) -> None:
    """Serve rewards over HTTP until Ctrl-C or SIGTERM, then answer what is in flight (exit code 130).

    Requests need a token: RSQA_REWARD_TOKEN, or the one that is printed at the start.
    """
    if find_spec("uvicorn") is None or find_spec("fastapi") is None or find_spec("prometheus_client") is None:
        raise UsageError("rsqa serve needs the extra serve: pip install 'rsqa-pipeline[serve]'")
    from rsqa_pipeline.serving.auth import read_token

    token, made = read_token()
    compute = compute_on(device, batch_tokens).model_copy(update={"dtype": dtype})
    with _listen(host, port) as listening:
        folder = _model_folder(model, profile)
        from rsqa_pipeline.serving.limits import MIB, Limits
        from rsqa_pipeline.serving.server import build_app, load_replicas
        from rsqa_pipeline.serving.server import serve as serve_app

        limits = Limits(max_completions=max_completions, max_body_bytes=max_body_mib * MIB)
        try:
            scorers = load_replicas(folder, compute, replicas)
            app = build_app(model or str(folder), scorers, token, compute, limits, frozenset(image_host or ()))
        except ModelError as error:
            raise UsageError(f"--model: {' '.join(str(error).split())}") from error
        address, port = listening.getsockname()[:2]
        typer.echo(f"model {model or folder}, version {scorers[0].version[:12]}, replicas: {len(scorers)}")
        if made:
            typer.echo(f"token: {token}")
        typer.echo(f"serving at http://{f'[{address}]' if ':' in address else address}:{port}")
        serve_app(app, listening)
        raise typer.Exit(INTERRUPTED)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded; connections wait in its queue."""
    try:
        return socket.create_server((host, port), backlog=2048, family=_family(host))
    except OSError as error:
        raise UsageError(f"--port {port} on {host} cannot be used: {error.strerror}; choose another") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _model_folder(model: str | None, profile: str | None) -> Path:
    """The folder of --model, or of the profile's score model.

    Raises:
        UsageError: there is no such model.
    """
    if model is not None and not model.startswith("models:/"):
        refuse_bad_model(model)
        from rsqa_pipeline.models.load import local_folder

        return local_folder(model)
    settings = load_profile(profile or default_profile())
    if model is not None:
        return _registered(settings, model)
    from rsqa_pipeline.stages import assets_of

    folder = assets_of(settings)["score_model"].folder(settings) / "model"
    if not folder.is_dir():
        raise UsageError(
            f"--model: profile {settings.name} has no score model yet ({folder}); "
            "name one, or make it: rsqa run score_model"
        )
    refuse_bad_model(str(folder))
    return folder


def _registered(settings: Profile, reference: str) -> Path:
    """Folder of a registered version, whose weights and manifest were compared."""
    from rsqa_pipeline.registration import find_registered
    from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking

    if not settings.state.is_dir() and not settings.data.is_dir():
        raise UsageError(f"--model: profile {settings.name} has no registry yet, so no {reference}; name a folder")
    refuse_silent_mlflow()
    tracking = MlflowTracking(settings)
    try:
        found = find_registered(settings, tracking, reference)
        return tracking.download(found["model"], found["version"])
    except DataError as error:
        raise UsageError(f"--model: {' '.join(str(error).split())}") from error
