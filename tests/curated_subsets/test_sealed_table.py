"""A score table or shard with a changed bit is scored again and reported, never reused."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.sealed_table import is_whole, write_sealed
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreRow, score_table
from rsqa_pipeline.curated_subsets.scoring.worker import FILE_SCORE
from rsqa_pipeline.errors import DataError
from tests.curated_subsets.counting_scorer import CountingSpec, passes

FLIPS = 400
ROWS = [
    {
        "key": f"k{number}",
        "image": "a.png",
        "image_hash": "41" * 32,
        "text_hash": f"{number:064d}",
        "score": number / 7,
        "model_version": "5b" * 32,
        "note": "text_cut" if number % 3 == 0 else None,
    }
    for number in range(40)
]


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_sealed(path, FILE_SCORE, ROWS)
    sound = path.read_bytes()
    assert is_whole(path) and pq.read_table(path).to_pylist() == pa.Table.from_pylist(ROWS, FILE_SCORE).to_pylist()
    for seed in range(FLIPS):
        path.write_bytes(flipped(sound, random.Random(seed)))
        assert not is_whole(path), seed


def test_a_table_without_a_seal_or_cut_short_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, FILE_SCORE), path)
    assert not is_whole(path) and not is_whole(tmp_path / "none.parquet")
    write_sealed(path, FILE_SCORE, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert not is_whole(path)


@pytest.fixture
def rows(tmp_path: Path) -> list[ScoreRow]:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = str(tmp_path / "a.png")
    return [ScoreRow(f"k{n}", image, [{"role": "assistant", "content": f"{n} ships"}]) for n in range(6)]


def test_a_changed_table_is_scored_again_and_reported(rows, tmp_path, caplog):
    spec, out = CountingSpec(tmp_path / "log.txt"), tmp_path / "s.parquet"
    score_table(iter(rows), spec, out, "score", 3, Engine())
    first = pq.read_table(out)
    assert len(passes(spec.log)) == 6
    data = bytearray(out.read_bytes())
    data[len(data) // 3] ^= 1
    out.write_bytes(data)
    assert not is_whole(out)
    with caplog.at_level(logging.WARNING):
        score_table(iter(rows), spec, out, "score", 3, Engine())
    assert len(passes(spec.log)) == 12 and "none of its scores is reused" in caplog.text
    assert pq.read_table(out).equals(first)
    score_table(iter(rows), spec, out, "score", 3, Engine())
    assert len(passes(spec.log)) == 12


def test_a_changed_shard_is_scored_again_and_the_others_are_not(rows, tmp_path, caplog, monkeypatch):
    spec, out = CountingSpec(tmp_path / "log.txt"), tmp_path / "s.parquet"
    merge = "rsqa_pipeline.curated_subsets.scoring.shards._merge"
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(merge, lambda *_: (_ for _ in ()).throw(OSError("killed")))
        score_table(iter(rows), spec, out, "score", 2, Engine())
    shards = sorted((tmp_path / "s.shards").glob("*.scores.parquet"))
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 3] ^= 1
    shards[1].write_bytes(data)
    with caplog.at_level(logging.WARNING):
        score_table(iter(rows), spec, out, "score", 2, Engine())
    assert [text for _, text in passes(spec.log)].count("2 ships") == 2
    assert len(passes(spec.log)) == 8 and "it is scored again" in caplog.text
    assert [row["key"] for row in pq.read_table(out).to_pylist()] == [f"k{n}" for n in range(6)]


def test_a_table_of_scores_without_a_seal_is_not_resumed(rows, tmp_path):
    spec, out = CountingSpec(tmp_path / "log.txt"), tmp_path / "s.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, FILE_SCORE), out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="carries no hash of itself"):
        score_table(iter(rows), spec, out, "score", 3, Engine())
    assert out.read_bytes() == before and not passes(spec.log)
