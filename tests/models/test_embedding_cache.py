"""Cached vectors: the same numbers come back, and a file with any changed bit is never used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.models.embedding_cache import EmbeddingCache

IMAGE = "ab" * 32


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingCache, Path, torch.Tensor]:
    folder, vector = tmp_path_factory.mktemp("vectors"), torch.linspace(-1, 1, 8)
    cache = EmbeddingCache(folder, "v" * 64)
    cache.put(IMAGE, vector)
    return cache, next(path for path in folder.rglob("*") if path.is_file()), vector


def test_a_vector_comes_back_exactly(written: tuple[EmbeddingCache, Path, torch.Tensor]) -> None:
    cache, _, vector = written
    found = cache.get(IMAGE)
    assert found is not None and torch.equal(found, vector)
    assert cache.get("cd" * 32) is None


@given(st.data())
def test_a_flipped_bit_or_a_cut_file_is_a_miss(
    written: tuple[EmbeddingCache, Path, torch.Tensor], data: st.DataObject
) -> None:
    cache, file, _ = written
    sound = file.read_bytes()
    if data.draw(st.booleans()):
        bad = bytearray(sound)
        bad[data.draw(st.integers(0, len(sound) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        bad = bytearray(sound[: data.draw(st.integers(0, len(sound) - 1))])
    try:
        file.write_bytes(bad)
        assert cache.get(IMAGE) is None
    finally:
        file.write_bytes(sound)


def test_the_vector_of_another_image_is_a_miss(written: tuple[EmbeddingCache, Path, torch.Tensor]) -> None:
    cache, file, _ = written
    other = IMAGE[:-1] + "c"
    file.with_name(file.name.replace(IMAGE[3:], other[3:])).write_bytes(file.read_bytes())
    assert cache.get(other) is None
