"""`rsqa plan` and `rsqa doctor`: what a run would do, and what this machine offers."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec

from pydantic import ValidationError
from rich.console import Console

from rsqa_pipeline import __version__
from rsqa_pipeline.cli.run import duration
from rsqa_pipeline.cli.terminal import plain_table
from rsqa_pipeline.errors import ProfileError
from rsqa_pipeline.profile import Profile, default_profile, known_profiles, loading

EXTRAS = {"geo": "rasterio", "cluster": "ray", "gpu": "vllm", "serve": "prometheus_client"}
"""Optional extra -> the package that it installs."""


def print_plan(profile: Profile, names: list[str], console: Console) -> None:
    """Prints which of the assets are stale, why, and what they took last time; starts nothing."""
    from rsqa_pipeline.materialization.staleness import stale_assets  # reads every output: seconds on large data

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


def profile_without_data(name: str) -> Profile:
    """A profile whose files need not be there yet.

    Raises:
        ProfileError: any other fault of the profile.
    """
    try:
        return Profile.model_validate(loading._read(name, seen=()))
    except ValidationError as error:
        raise ProfileError(name, [loading._describe(fault) for fault in error.errors()]) from error


def print_size(profile: Profile, names: list[str], gpu: str, console: Console) -> None:
    """Prints how large each of the assets is, made from nothing, by formulas; reads no data and starts nothing."""
    from rsqa_pipeline.sizing.assets import sizes_of
    from rsqa_pipeline.sizing.hardware import card_of

    card = card_of(gpu)
    sizes = sizes_of(profile, names, card)
    limit = card.memory_gb * 1e9
    table = plain_table("asset", "samples", "tokens", "FLOPs", "memory", "GPU-h", "disk")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, size in sizes.items():
        memory = short(size.memory, "B") + (" !" if size.memory > limit else "")
        hours = _hours(size.seconds / 3600)
        cells = (short(size.samples), short(size.tokens), short(size.flops), memory, hours, short(size.disk, "B"))
        table.add_row(name, *cells)
    console.print(table)
    total, disk = sum(size.seconds for size in sizes.values()) / 3600, sum(size.disk for size in sizes.values())
    console.print(f"{len(sizes)} assets: {_hours(total)} GPU-hours, {short(disk, 'B')} of disk")
    console.print(
        f"card {gpu}: {card.bf16_tflops:g} TFLOP/s in bfloat16, {card.memory_gb:g} GB, {card.bandwidth_tbs:g} TB/s"
    )
    if over := [name for name, size in sizes.items() if size.memory > limit]:
        console.print(f"! {len(over)} of them need more memory than one {gpu} has, as this profile sets them up")
    console.print("Estimates from rsqa_pipeline/sizing: no data was read. Formulas: docs/sizing.md")


def _hours(hours: float) -> str:
    if not hours:
        return "-"
    if hours < 0.01:
        return "<0.01"
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def short(value: float, unit: str = "") -> str:
    """Three digits and a prefix of 1000: ``1.01M``, ``16.6GB``; ``-`` for nothing."""
    if not value:
        return "-"
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if value < 999.5:
            return f"{value:.3g}{prefix}{unit}"
        value /= 1000
    return f"{value:.3g}Y{unit}"


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
