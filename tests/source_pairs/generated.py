"""Generates a small data set in RSICD's format: noise images of six classes, with five captions per image."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from rsqa_pipeline.profile import Compute, Corruption, Profile, SourceFile, SourcePairs

CLASSES = ("airport", "beach", "desert", "port", "river", "storagetanks")
CAPTIONS = (
    "many planes are parked near a long building in an {words} .",
    "some green trees are near a {words} with two white roads .",
    "several cars and {words} are on the left .",
    "a {words} is next to a pond .",
    "it is a large {words} .",
)


def write_image(path: Path, seed: int) -> None:
    """A JPEG of 24 x 24 px, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def two_tone_png(width: int, height: int) -> bytes:
    """A valid PNG with one bit per pixel, made row by row: 20,000 x 20,000 px take little time and memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_karpathy(folder: Path, per_split: dict[str, int] | None = None) -> dict[str, Any]:
    """Writes ``dataset.json`` and ``images/``; returns the content of the former."""
    images = []
    for split, count in (per_split or {"train": 24, "val": 3, "test": 12}).items():
        for index in range(count):
            name = CLASSES[index % len(CLASSES)]
            file = f"{name}_{split}{index}.jpg"
            write_image(folder / "images" / file, len(images))
            sentences = [
                {"raw": text.format(words=name), "sentid": len(images) * 5 + i} for i, text in enumerate(CAPTIONS)
            ]
            images.append({"filename": file, "split": split, "sentences": sentences})
    content = {"images": images, "dataset": "generated"}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return content


def settings(folder: Path, corruption: Corruption | None = None, **changes: Any) -> Profile:
    """The parts of a profile that a source stage uses, on the data set of `write_karpathy`."""
    file = {"path": str(folder / "dataset.json"), "images": str(folder / "images"), "scene_class_from_name": True}
    pairs = {
        "captions": SourceFile(format="karpathy", corruption=corruption, **file),
        "instructions": SourceFile(format="class_questions", **file),
        "benchmarks": SourceFile(format="karpathy", **file),
        "preference_share": 0.3,
        "instruction_samples": 40,
        "benchmark_items": 10,
        **changes,
    }
    return cast(Profile, SimpleNamespace(seed=7, compute=Compute(device="cpu"), source_pairs=SourcePairs(**pairs)))
