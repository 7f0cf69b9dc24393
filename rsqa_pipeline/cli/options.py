"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Profile name in configs/profiles or path of a YAML file. Default: the one in params.yaml.",
    ),
]
