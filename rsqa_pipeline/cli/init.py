"""`rsqa init`: a profile from a user's own file or folder of images with captions."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from string import Template
from typing import Annotated

import typer

import rsqa_pipeline
from rsqa_pipeline.cli.checks import refuse_bad_out, refuse_missing, source_file
from rsqa_pipeline.cli.terminal import make_console
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.profile import PROFILE_FOLDER, SourceFile

MODELS = {"VLM": "vlm", "CLIP": "clip", "SCORER": "vlm_expert"}
"""Field of the starter profile -> folder of the shipped model."""
PROBED_IMAGES = 100
"""Rows whose image file is looked for, from the start of the file."""
_FORMAT_OF_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".tar": "webdataset", ".parquet": "hf_parquet"}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def init(
    data: Annotated[Path, typer.Argument(help="File or folder of captioned images.")],
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images; default: the file's.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="Format; default: recognised from the data.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Profile to write; default: configs/profiles/NAME.yaml.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the profile and its folders; default: from OUT or DATA.")
    ] = None,
) -> None:
    """Write a profile for your own captioned images. It runs on captions alone, up to the curated subsets."""
    refuse_missing(data, "DATA")
    name = name or re.sub(r"[^a-z0-9_-]+", "_", (out or data).stem.lower()).strip("_-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UsageError(f"--name {name!r}: needs lower-case letters, digits, - and _, a letter or digit first")
    out = out or PROFILE_FOLDER / f"{name}.yaml"
    refuse_bad_out(out)
    if out.exists():
        raise UsageError(f"--out: {out} exists and is not overwritten; choose another path or delete it")
    source = source_file(form or recognised_format(data), data, images)
    captions, faults = _count(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(profile_text(name, source), encoding="utf-8")
    console = make_console()
    console.print(
        f"{source.format}: {captions:,} captions read" + (f", {faults:,} rows with a fault" if faults else "")
    )
    console.print(f"profile {name}: {out}", soft_wrap=True)
    console.print(f"next: rsqa run --profile {out}", soft_wrap=True)


def recognised_format(data: Path) -> str:
    """The format of a file or folder, by its ending and first bytes. Raises UsageError if it is none that is known."""
    if data.is_dir():
        endings = {file.suffix.lower() for file in data.rglob("*") if file.is_file()}
        found = next((_FORMAT_OF_SUFFIX[ending] for ending in (".tar", ".parquet") if ending in endings), None)
        found = found or ("image_folder" if endings.intersection(_IMAGE_SUFFIXES) else None)
    elif data.suffix.lower() == ".json":
        found = _json_format(data)
    else:
        found = _FORMAT_OF_SUFFIX.get(data.suffix.lower())
    if found is None:
        raise UsageError(
            f"{data}: format not recognised; name it with --format: csv, jsonl, llava, coco, karpathy, webdataset or "
            "hf_parquet (docs/own_data.md)"
        )
    return found


def _json_format(file: Path) -> str | None:
    """Karpathy and COCO files are an object, with ``sentences`` or ``annotations`` in it; a LLaVA file is a list."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(content, list):
        return "llava"
    if not isinstance(content, dict) or "images" not in content:
        return None
    return "coco" if "annotations" in content else "karpathy"


def _count(source: SourceFile) -> tuple[int, int]:
    """Captions and faulty rows of the file. Raises UsageError if it has no caption, or none of its images is there."""
    from rsqa_pipeline.images.references import parse_reference
    from rsqa_pipeline.source_pairs.readers.read_source import images_folder, read_source
    from rsqa_pipeline.source_pairs.source_row import SourceRow

    captions = faults = 0
    try:
        for entry in read_source(source):
            if not isinstance(entry, SourceRow):
                faults += 1
            elif entry.task == "caption":
                captions += 1
        first = [entry for entry in islice(read_source(source), PROBED_IMAGES) if isinstance(entry, SourceRow)]
    except DataError as error:
        raise UsageError(" ".join(str(error).split())) from error
    if not captions:
        kind = "class folders name no captions" if source.format == "image_folder" else "no row with a caption"
        raise UsageError(f"{source.path}, read as {source.format}: {kind}; see the formats in docs/own_data.md")
    if not any(Path(parse_reference(row.image).file).is_file() for row in first):
        raise UsageError(
            f"none of the first {len(first)} images is in {images_folder(source)}; name their folder with --images"
        )
    return captions, faults


def profile_text(name: str, source: SourceFile) -> str:
    """The profile as YAML: a complete file, which inherits nothing."""
    package = Path(rsqa_pipeline.__file__).parent
    models = package / "tiny_models" / "checkpoints"
    if models.is_relative_to(Path.cwd()):
        models = models.relative_to(Path.cwd())
    captions = source.model_dump(include={"format", "path", "images"}, exclude_none=True)
    text = (package / "profile" / "starter.yaml").read_text(encoding="utf-8")
    shipped = {field: str(models / folder) for field, folder in MODELS.items()}
    values = {"NAME": name, "CAPTIONS": captions, **shipped}
    return Template(text).substitute({key: json.dumps(value) for key, value in values.items()})  # JSON is YAML, quoted
