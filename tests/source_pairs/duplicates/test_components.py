"""Search and components against naive code; chains, many copies, and which image is kept."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.source_pairs.duplicates import neighbours
from rsqa_pipeline.source_pairs.duplicates.components import find_components, keepers
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from tests.source_pairs.duplicates.vectors import Vectors


def planted(count: int, copies: int, width: int = 16) -> np.ndarray:
    """``count`` random vectors, then slightly changed copies of the first ``copies`` of them."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((count, width))
    return np.concatenate([base, base[:copies] + 0.02 * rng.standard_normal((copies, width))])


@pytest.mark.parametrize("exact_below", [10_000, 100])
def test_pairs_equal_those_of_the_full_matrix(exact_below: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_BELOW", exact_below)
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    images = Vectors(planted(1200, 40), 0.95)
    rows = np.arange(1240)
    found = near_pairs(images, rows, images, rows, 0.95)
    first, second = np.nonzero(images.vectors @ images.vectors.T >= 0.95)
    expected = {(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True) if a != b}
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert len(expected) == 80


def test_two_sets_are_searched_only_in_the_given_rows() -> None:
    vectors = planted(30, 10)
    images, others = Vectors(vectors[:30], 0.95), Vectors(vectors[30:], 0.95)
    found = near_pairs(images, np.arange(5, 30), others, np.arange(0, 8), 0.95)
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(5, 5), (6, 6), (7, 7)]


def test_a_chain_is_one_component() -> None:
    """Each is 10 degrees from the next; the ends, 40 degrees apart, are joined by those in between."""
    angles = np.deg2rad([0, 10, 20, 30, 40, 90])
    images = Vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.98)
    components = find_components(images, np.arange(6), [5, 4, 1, 3, 2, 0], 0.98)
    assert components.keeper.tolist() == [2, 2, 2, 2, 2, 5]
    other, cosine = components.evidence[0]
    assert (other, cosine) == (1, pytest.approx(np.cos(np.deg2rad(10)), abs=1e-5))
    assert 5 not in components.evidence


def test_one_is_kept_of_more_copies_than_a_query_returns() -> None:
    rng = np.random.default_rng(2)
    copies_of_one = rng.standard_normal(24) + 0.01 * rng.standard_normal((20 * neighbours.NEIGHBOURS, 24))
    unrelated = rng.standard_normal((50, 24))
    images = Vectors(np.concatenate([copies_of_one, unrelated]), 0.99)
    components = find_components(images, np.arange(len(images.vectors)), list(range(len(images.vectors))), 0.99)
    assert set(components.keeper[: len(copies_of_one)].tolist()) == {0}
    assert components.keeper[len(copies_of_one) :].tolist() == list(range(len(copies_of_one), len(images.vectors)))


def test_rows_left_out_are_not_joined() -> None:
    images = Vectors(planted(4, 4), 0.95)
    components = find_components(images, np.array([0, 1, 2, 4, 5]), list(range(8)), 0.95)
    assert components.keeper.tolist() == [0, 1, 2, 3, 0, 1, 6, 7]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20), st.permutations(range(15)))
def test_keepers_have_the_lowest_rank_in_networkx_components(edges: list[tuple[int, int]], rank: list[int]) -> None:
    graph = networkx.Graph(edges)
    graph.add_nodes_from(range(15))
    found = keepers(15, np.array(edges, np.int64).reshape(-1, 2).T, rank)
    for component in networkx.connected_components(graph):
        assert {int(found[member]) for member in component} == {min(component, key=rank.__getitem__)}
