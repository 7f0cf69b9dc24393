"""`rsqa evidence`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsqa_pipeline.cli.checks import refuse_bad_out
from rsqa_pipeline.cli.lineage import refuse_missing_extra
from rsqa_pipeline.cli.options import ProfileOption
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import default_profile, load_profile

PACKAGES = ("OpenSSL", "cyclonedx", "jsonschema", "markdown_it", "mlcroissant", "model_signing", "prov")
"""Modules of the extra ``audit`` that a package needs."""


def evidence(
    out: Annotated[Path, typer.Option("--out", help="New or empty folder to write; open its index.html first.")],
    profile: ProfileOption = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Elliptic private key in PEM without passphrase. Default: an unsigned package."),
    ] = None,
) -> None:
    """Write model cards, data cards, bill of materials, history and signatures of a profile into one folder.

    Works offline. `rsqa audit --evidence` checks that the folder and the project still agree.
    """
    refuse_missing_extra("rsqa evidence", *PACKAGES)
    refuse_bad_out(out, may_be_folder=True)
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"--out: the folder {out} is not empty; name a new one")
    settings = load_profile(profile or default_profile())
    from rsqa_pipeline.evidence.package import write_package
    from rsqa_pipeline.evidence.project import read_project
    from rsqa_pipeline.evidence.signing import read_key

    if key is not None:
        read_key(key)  # before minutes of hashing
    write_package(read_project(settings), out, key, typer.echo)
    typer.echo(f"{'unsigned' if key is None else 'signed'}: {out / 'index.html'}")
