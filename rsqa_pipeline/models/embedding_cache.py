"""Cache of image vectors on disk, one small file per image, named after the image's hash.

Files are used instead of a database: several processes on several machines can read and write them at once, a killed
process leaves no partial file, and nothing is kept in memory. A vector of 768 numbers takes 3.1 kB, so a million take
about 4 GB on a file system with 4 kB blocks.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch

log = logging.getLogger(__name__)

_DIGEST_BYTES = 32


class EmbeddingCache:
    """Image vectors of one model: a file is the sha256 of image hash and vector, then the vector's float32 values."""

    def __init__(self, folder: Path, version: str) -> None:
        """
        Args:
            version: the model's weights version; vectors of another version are never returned.
        """
        self._folder = folder / version[:32]

    def get(self, image_hash: str) -> torch.Tensor | None:
        """(width,) float32; None if the image is not cached or its file is not what was written."""
        file = self._file(image_hash)
        if not file.is_file():
            return None
        content = file.read_bytes()
        digest, vector = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(image_hash.encode() + vector).digest() != digest:
            log.warning("%s has changed since it was written; the image is embedded again", file)
            return None
        return torch.from_numpy(np.frombuffer(vector, np.float32).copy())

    def put(self, image_hash: str, vector: torch.Tensor) -> None:
        """Stores a vector (width,), float32 on the CPU."""
        file = self._file(image_hash)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}.scratch")
        content = vector.numpy().astype(np.float32, copy=False).tobytes()
        scratch.write_bytes(hashlib.sha256(image_hash.encode() + content).digest() + content)
        scratch.replace(file)

    def _file(self, image_hash: str) -> Path:
        return self._folder / image_hash[:3] / f"{image_hash[3:]}.f32"
