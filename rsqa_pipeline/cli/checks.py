"""What a user may get wrong on the command line, found before any work. Each check raises a UsageError of one line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import ValidationError

from rsqa_pipeline.errors import ModelError, UsageError
from rsqa_pipeline.profile import Compute, SourceFile

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def refuse_missing(path: Path, option: str) -> None:
    """Refuses a file or folder that does not exist or holds nothing."""
    if not path.exists():
        raise UsageError(f"{option}: no such file or folder: {path}")
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"{option}: the folder {path} is empty")
    if path.is_file() and path.stat().st_size == 0:
        raise UsageError(f"{option}: the file {path} is empty")


def refuse_bad_out(out: Path, may_be_folder: bool = False) -> None:
    """Refuses an output that cannot be written: a folder in its place, or no writable folder to put it in."""
    if out.is_dir() and not may_be_folder:
        raise UsageError(f"--out: {out} is a folder; name a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UsageError(f"--out: {folder} is a file, so {out} cannot be written; choose another path")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out: no permission to write in {folder}; choose another path")


def source_file(form: str, data: Path, images: Path | None) -> SourceFile:
    """The file to read, as it is named by --format, --data and --images."""
    refuse_missing(data, "--data")
    if images is not None and not images.is_dir():
        raise UsageError(f"--images: no such folder: {images}")
    try:
        return SourceFile.model_validate({"format": form, "path": str(data), "images": images and str(images)})
    except ValidationError as error:
        raise UsageError(_in_one_line(error)) from None


def compute_on(device: str, batch_tokens: int) -> Compute:
    """The settings of --device and --batch-tokens; a GPU that is asked for must be there."""
    try:
        compute = Compute.model_validate({"device": device, "batch_tokens": batch_tokens})
    except ValidationError as error:
        raise UsageError(_in_one_line(error)) from None
    refuse_missing_gpu(compute.device, "--device")
    return compute


def refuse_missing_gpu(device: str, where: str) -> None:
    """Refuses ``cuda`` on a machine without a GPU that torch can use."""
    if device != "cuda":
        return
    import torch  # seconds: only if a GPU is asked for

    if not torch.cuda.is_available():
        raise UsageError(f"{where} is cuda, but torch finds no GPU here (see `rsqa doctor`); use auto or cpu")


def refuse_bad_model(model: str) -> None:
    """Refuses a folder without a configuration or weights, and a name that is neither a folder nor a hub's."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"--model: {folder} is not a model's folder: it has no config.json")
        if not any(folder.glob("*.safetensors")):
            raise UsageError(f"--model: {folder} has no weights (*.safetensors)")
    elif folder.exists() or not _HUB_ID.fullmatch(model):
        raise UsageError(f"--model: no model folder {model}; give a folder, or a hub id like owner/name")
    else:
        from rsqa_pipeline.models.load import local_folder  # torch: seconds

        try:
            local_folder(model)
        except ModelError as error:
            raise UsageError(f"--model: {' '.join(str(error).split())}") from error


def _in_one_line(error: ValidationError) -> str:
    return "; ".join(
        f"--{str(f['loc'][0]).replace('_', '-')}: {f['msg']}, found {f['input']!r}" for f in error.errors()
    )
