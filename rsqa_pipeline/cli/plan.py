"""`rsqa plan` and `rsqa doctor`: what a run would do, and what this machine offers."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec

from rich.console import Console

from rsqa_pipeline import __version__
from rsqa_pipeline.cli.run import duration
from rsqa_pipeline.cli.terminal import plain_table
from rsqa_pipeline.profile import Profile, default_profile, known_profiles

EXTRAS = {"geo": "rasterio", "cluster": "ray", "gpu": "vllm", "serve": "prometheus_client"}
"""Optional extra -> the package that it installs."""


def print_plan(profile: Profile, names: list[str], console: Console) -> None:
    """Prints which of the assets are stale, why, and what they took last time; starts nothing."""
    from rsqa_pipeline.staleness import stale_assets  # reads every output: seconds on large data

    stale = [asset for asset in stale_assets(profile, names) if asset.name in names]
    if not stale:
        console.print(f"nothing to make: all {len(names)} assets of profile {profile.name} are current")
        return
    table = plain_table("asset", "why", "last time")
    for asset in stale:
        last = "never timed" if asset.last_seconds is None else duration(asset.last_seconds)
        table.add_row(asset.name, "; ".join(asset.reasons), last)
    console.print(table)
    known = [asset.last_seconds for asset in stale if asset.last_seconds is not None]
    unknown = len(stale) - len(known)
    console.print(
        f"{len(stale)} of {len(names)} assets to make; the {len(known)} timed ones took {duration(sum(known))}"
        + (f", {unknown} were never timed here" if unknown else "")
    )


def print_doctor(console: Console) -> None:
    """Prints what a run depends on besides the project: versions, processor, memory, disk, GPU, extras, git."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use"
    rows = {
        "rsqa-pipeline": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use",
        "memory": f"{memory:.0f} GB",
        "disk free": f"{shutil.disk_usage('.').free / 2**30:.0f} GB here",
        "GPU": gpu,
        "git": shutil.which("git") or "not found: runs are recorded without a commit",
        "profiles": ", ".join(known_profiles()) or "none below the current folder",
    }
    rows |= {
        f"extra {extra}": f"{package} installed" if find_spec(package) else f"not installed (pip install '.[{extra}]')"
        for extra, package in EXTRAS.items()
    }
    if rows["profiles"].startswith("none"):
        rows["default profile"] = "none"
    else:
        rows["default profile"] = default_profile()
    table = plain_table("", "")
    table.show_header = False
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
