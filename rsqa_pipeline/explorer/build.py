"""Writes the folder of the page: it opens from a file system, without a server and without a network."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.explorer.exploration import REASON_WORDS, Exploration, ExploredSample
from rsqa_pipeline.explorer.thumbnails import CELL_PIXELS, PER_SIDE, Thumbnail, write_thumbnails
from rsqa_pipeline.records import MESSAGES, sha256, write_table

PAGE = ("index.html", "explorer.css", "explorer.js")
SAMPLES = "samples.parquet"
EXPLORED = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),  # missing if it is not known
        ("image", pa.string()),  # reference; missing for a quarantined row
        ("messages", MESSAGES),  # empty if the text is not known
        ("score", pa.float64()),
        ("state", pa.string()),  # kept | dropped | quarantined
    ]
)
"""The page's samples, for the marks that come back from it. Example: ``{"key": "9f..", "image_id": "41..",
"image": "../data/demo/images.tar#512+4311", "messages": [{"role": "assistant", "content": "two white tanks"}],
"score": 2.31, "state": "kept"}``"""

_NAMES = ("state", "reason", "rule", "kind", "source", "scene_class", "task", "fault", "group", "note")
"""Columns with few different values: written as numbers and a list of names."""
_NUMBERS = ("score", "clip_score", "true_quality", "percentile")


def refuse_used_folder(out: Path) -> None:
    """Refuses a folder that holds something else than an earlier page."""
    if out.is_dir() and any(out.iterdir()) and not (out / SAMPLES).is_file():
        raise UsageError(f"--out: {out} holds other files; name a new folder, or one of an earlier `rsqa explore`")


def write_page(exploration: Exploration, out: Path) -> int:
    """Writes the page, its data, the thumbnails and ``samples.parquet``; an earlier page in ``out`` is replaced.

    The folder is made beside ``out`` and moved there when it is whole, so a killed run leaves no half page.
    Returns the number of images that have no thumbnail.
    """
    scratch = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    samples = exploration.samples
    thumbnails = write_thumbnails([s.image for s in samples if s.image is not None], scratch / "thumbnails")
    facts = {
        "title": exploration.title,
        "rule": exploration.rule,
        "total": exploration.total,
        "version": sha256(*(f"{sample.key} {sample.score} {sample.state}" for sample in samples)),
        "reasons": REASON_WORDS,
        "cell": CELL_PIXELS,
        "perSide": PER_SIDE,
    }
    data = {"facts": facts, "columns": _columns(samples, thumbnails)}
    # ASCII alone: lone surrogates and U+2028 stay escapes, whatever the browser takes the file's encoding for
    (scratch / "data.js").write_text(f"const DATA = {json.dumps(data, separators=(',', ':'))};\n", encoding="ascii")
    for name in PAGE:
        page = files("rsqa_pipeline.explorer") / "page" / name
        (scratch / name).write_bytes(page.read_bytes())
    write_table(scratch / SAMPLES, EXPLORED, [_known(sample) for sample in samples])  # references hold beside it, too
    shutil.rmtree(out, ignore_errors=True)
    scratch.replace(out)
    return sum(thumbnail.fault is not None for thumbnail in thumbnails.values())


def _columns(samples: Sequence[ExploredSample], thumbnails: Mapping[str, Thumbnail]) -> dict[str, Any]:
    """The samples by column, as the page reads them."""
    shown = [thumbnails[sample.image] if sample.image is not None else Thumbnail() for sample in samples]
    columns: dict[str, Any] = {name: _coded([getattr(sample, name) for sample in samples]) for name in _NAMES}
    columns |= {name: [_short(getattr(sample, name)) for sample in samples] for name in _NUMBERS}
    columns |= {
        "key": [sample.key for sample in samples],
        "rank": [sample.rank for sample in samples],
        "detail": [sample.detail for sample in samples],
        "text": [sample.messages[-1]["content"] if sample.messages else None for sample in samples],
        "before": [[[m["role"], m["content"]] for m in sample.messages[:-1]] for sample in samples],
        "thumbnail": [thumbnail.index for thumbnail in shown],
        "imageFault": _coded([thumbnail.fault for thumbnail in shown]),
    }
    return columns


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Different values in order of appearance, and the place of each row's value in them; -1 if it is missing."""
    names = {value: place for place, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
    return {"names": list(names), "codes": [-1 if value is None else names[value] for value in values]}


def _short(value: float | None) -> float | None:
    """Seven digits, all that a float32 has; None if it is not finite, which JSON cannot write."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _known(sample: ExploredSample) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in EXPLORED.names}
