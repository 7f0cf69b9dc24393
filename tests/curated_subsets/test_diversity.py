"""Facility location compared with naive greedy selection and with every possible selection."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.curated_subsets.selection import diversity
from rsqa_pipeline.curated_subsets.selection.apply_rule import apply_rule
from rsqa_pipeline.curated_subsets.selection.diversity import facility_location, read_embeddings
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule


def unit_rows(count: int, seed: int, width: int = 4) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def coverage(vectors: np.ndarray, chosen: tuple[int, ...] | list[int]) -> float:
    return float(((1 + vectors.astype(float) @ vectors[list(chosen)].astype(float).T) / 2).max(axis=1).sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 10**6))
def test_lazy_greedy_is_greedy_and_close_to_the_optimum(rows, count, seed):
    vectors = unit_rows(rows, seed)
    chosen = facility_location(vectors, count)
    assert len(chosen) == len(set(chosen)) == min(count, rows)
    for step in range(len(chosen)):
        others = [index for index in range(rows) if index not in chosen[:step]]
        best = max(coverage(vectors, [*chosen[:step], index]) for index in others)
        assert coverage(vectors, chosen[: step + 1]) == pytest.approx(best, abs=1e-5)
    if chosen and len(chosen) <= 4:
        optimum = max(coverage(vectors, other) for other in combinations(range(rows), len(chosen)))
        assert coverage(vectors, chosen) >= (1 - 1 / np.e) * optimum - 1e-6


def test_one_of_each_cluster_is_selected():
    centres = np.eye(3, dtype=np.float32)
    vectors = np.repeat(centres, 4, axis=0)
    assert facility_location(vectors, 3) == [0, 4, 8]


def write(path: Path, ids: list[str], vectors: np.ndarray) -> str:
    pq.write_table(pa.table({"sample_id": ids, "embedding": vectors.tolist()}), path)
    return str(path)


def test_embeddings_are_read_by_id_in_the_requested_order(tmp_path):
    file = write(tmp_path / "e.parquet", ["a", "b", "c"], np.array([[3.0, 0], [0, 2], [1, 1]]))
    assert read_embeddings(file, ["c", "a"]).tolist() == [pytest.approx([0.5**0.5] * 2), [1.0, 0.0]]
    with pytest.raises(DataError, match=r"1 of 2 candidate samples have no embedding, e\.g\. x"):
        read_embeddings(file, ["a", "x"])
    with pytest.raises(DataError, match="no file"):
        read_embeddings(str(tmp_path / "none.parquet"), ["a"])
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"needs columns sample_id \(or key\) and embedding, found id"):
        read_embeddings(str(tmp_path / "other.parquet"), ["a"])


def test_diverse_rule_keeps_different_samples_of_the_best_part(tmp_path):
    """Two of the best four of eight samples are kept: one of each pair of equal vectors."""
    ids = [f"c{number}" for number in range(8)]
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1], [1, 1]], dtype=float)
    file = write(tmp_path / "e.parquet", ids, vectors)
    samples = pd.DataFrame({"sample_id": ids, "kind": "caption", "score_model": [9.0, 8, 7, 6, 5, 4, 3, 2]})
    rule = SubsetRule.model_validate(
        {
            "selector": "score_model",
            "caption_fraction": 0.25,
            "instruction_fraction": 0.25,
            "diverse": {"embeddings": file, "top": 0.5},
        }
    )
    decisions = apply_rule(samples, rule, 0)
    assert samples.loc[decisions["kept"], "sample_id"].tolist() == ["c0", "c2"]
    assert decisions["reason"].tolist() == [None, "too_similar", None, "too_similar", *["outside_top"] * 4]
    backwards = samples[::-1].reset_index(drop=True)
    assert set(backwards.loc[apply_rule(backwards, rule, 0)["kept"], "sample_id"]) == {"c0", "c2"}


def test_too_many_candidates_are_refused():
    with pytest.raises(DataError, match=r"lower diverse\.top"):
        facility_location(np.zeros((diversity.MAX_CANDIDATES + 1, 1), np.float32), 1)
