"""Image vectors kept on disk by the image's hash, one small file each.

Files rather than a database: several processes, on several machines, read and write them at once, a kill leaves no
half of one, and nothing of it is in memory. An image of 768 numbers takes 3.1 kB, so a million take some 4 GB on a file
system with blocks of 4 kB.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch


class EmbeddingCache:
    """Vectors of one model."""

    def __init__(self, folder: Path, version: str) -> None:
        """
        Args:
            version: the model's; vectors of another one are never found.
        """
        self._folder = folder / version[:32]

    def get(self, image_hash: str) -> torch.Tensor | None:
        """(width,) float32; None where it was not put in."""
        try:
            return torch.from_numpy(np.load(self._file(image_hash), allow_pickle=False))
        except FileNotFoundError:
            return None

    def put(self, image_hash: str, vector: torch.Tensor) -> None:
        """Keeps a vector (width,) of float32 on the CPU."""
        file = self._file(image_hash)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}.scratch")
        with scratch.open("wb") as stream:
            np.save(stream, vector.numpy(), allow_pickle=False)
        scratch.replace(file)

    def _file(self, image_hash: str) -> Path:
        return self._folder / image_hash[:3] / f"{image_hash[3:]}.npy"
