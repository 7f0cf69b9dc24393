"""The process of the Dagster UI: ``python -m assets.webserver PORT``. It also serves the report, below ``/report/``.

`dagster dev` answers requests for any host name, so a web page could reach it through a name of its own that resolves
to 127.0.0.1. This server refuses such requests.
"""

from __future__ import annotations

import os
import sys

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from rsqa_pipeline.profile import default_profile, load_profile
from rsqa_pipeline.stages import assets_of

from .metadata import REPORT, REPORT_PATH

HOSTS = ["127.0.0.1", "localhost"]


def main(port: int) -> None:
    """Serves the workspace's UI on 127.0.0.1 until a signal."""
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance, version=dg.__version__, workspace_load_target=WorkspaceFileTarget(paths=["workspace.yaml"])
        ) as context,
    ):
        profile = load_profile(os.environ.get("RSQA_PROFILE") or default_profile())
        report = StaticFiles(directory=assets_of(profile)[REPORT].folder(profile), html=True, check_dir=False)
        app = Starlette(
            routes=[Mount(REPORT_PATH, report), Mount("/", create_app_from_workspace_process_context(context))],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        )
        uvicorn.run(app, host=HOSTS[0], port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
