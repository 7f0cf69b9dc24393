"""Applies a rule to a score file of any length: the same result as `apply_rule`, exact, with little memory.

Memory: one byte per row for the mask of kept rows, one batch, and a histogram of 0.5 MiB per group; the ranks of an
explanation add 8 bytes per row. The rows' keys are written to scratch files. The cut is found there by counting, 16
bits of the keys at a time, in four passes. Ids are only read if equal keys lie on both sides of the cut. A limit per
image holds ids, images and keys of all rows in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rsqa_pipeline.curated_subsets.corpus import Kind
from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, SPREAD
from rsqa_pipeline.curated_subsets.selection.diversity import facility_location, read_embeddings
from rsqa_pipeline.curated_subsets.selection.explain import DROPPED
from rsqa_pipeline.curated_subsets.selection.ranking import (
    crowded,
    describe_rule,
    image_column,
    is_random,
    kept_count,
    lower_bound,
    percentile,
    quota,
    ranking_keys,
)
from rsqa_pipeline.curated_subsets.selection.score_reader import (
    NOT_SCORED,
    Chunk,
    ScoreTable,
    SpilledKeys,
    nth_smallest_id,
)
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

Mask = npt.NDArray[np.bool_]
MAX_GROUPS = 256
_BINS = 1 << 16
_OTHER_REASONS = ("below_threshold", "too_similar", "no_score", "image_full")


class FileSelection(Protocol):
    """A rule applied to every row of a score file."""

    kept: Mask
    scored: int
    """Number of rows that the rule can rank."""

    def explain(self, dropped: Mask) -> Iterator[Any]:
        """Record batches of `explain.DROPPED` for the rows marked in ``dropped``."""
        ...


def apply_rule_streaming(table: ScoreTable, rule: SubsetRule, seed: int, scratch: Path) -> FileSelection:
    """Applies a rule to every row of a score file; without a column ``kind`` all rows are of one kind.

    Args:
        scratch: folder for files of 10 bytes per row and simple rule; the caller deletes it after the last use.

    Raises:
        DataError: a column named by the rule is missing, ``per`` has more than MAX_GROUPS groups, or the rule has
            different fractions per kind and the file has no kinds.
    """
    if rule.parts:
        parts = [
            apply_rule_streaming(table, part, seed, scratch / str(number)) for number, part in enumerate(rule.parts)
        ]
        return _CombinedSelection(parts, union=bool(rule.any_of))
    return _SimpleSelection(table, rule, seed, scratch)


class _CombinedSelection:
    def __init__(self, parts: list[FileSelection], union: bool) -> None:
        self._parts, self._union = parts, union
        self.scored = min(part.scored for part in parts)
        self.kept: Mask = reduce(np.logical_or if union else np.logical_and, [part.kept for part in parts])

    def explain(self, dropped: Mask) -> Iterator[Any]:
        """Explains each row by the first rule that drops it."""
        left = dropped
        for part in self._parts[:1] if self._union else self._parts:
            yield from part.explain(left & ~part.kept)
            left = left & part.kept


@dataclass
class _Group:
    """Rows of one kind, with one value of ``per``."""

    kind: Kind | None
    rows: int = 0
    scored: int = 0
    passing: int = 0


class _SimpleSelection:
    def __init__(self, table: ScoreTable, rule: SubsetRule, seed: int, scratch: Path) -> None:
        self._table, self._rule, self._seed = table, rule, seed
        self._has_kinds = "kind" in table.columns
        if rule.selector == "blend":
            raise DataError(
                "a rule with selector blend needs all scores in memory; name the data file too, or use another selector"
            )
        if not self._has_kinds and rule.caption_fraction != rule.instruction_fraction:
            raise DataError(
                "the rule has different fractions for captions and instructions, but the score file has no column kind"
            )
        self._groups: list[_Group] = []
        self._numbers: dict[tuple[str | None, str], int] = {}
        self._keys = SpilledKeys(scratch, table.batch_rows)
        self._keys.write(self._rows())
        if rule.max_per_image is not None:
            self._keys.refused = self._in_full_images(rule.max_per_image)
        self._count_rows()
        self.scored = sum(group.scored for group in self._groups)
        self._pool = self._select_best(self._pool_size)
        self.kept = self._select_diverse() if rule.diverse else self._pool

    def _rows(self) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.uint16], Mask]]:
        """Keys, groups and whether each row passes the threshold, batch by batch."""
        rule, names = self._rule, [self._table.id]
        score = self._table.column(str(rule.selector)) if rule.selector in SCORED else None
        per = self._table.column(rule.per) if rule.per else None
        spread = self._table.column(SPREAD) if rule.bound else None
        names += [name for name in (score, spread, per, "kind" if self._has_kinds else None) if name]
        for _, batch in self._table.batches(list(dict.fromkeys(names))):
            ids = batch.column(self._table.id).to_pylist() if is_random(rule) else [""] * len(batch)
            scores = batch.column(score).to_numpy(zero_copy_only=False).astype(np.float64) if score else None
            if scores is not None and spread:
                scores = lower_bound(scores, batch.column(spread).to_numpy(zero_copy_only=False).astype(np.float64))
            keys = ranking_keys(rule, ids, scores, self._seed)
            passes = np.ones(len(batch), dtype=bool)
            if rule.threshold is not None and scores is not None:
                passes = scores >= rule.threshold
            yield keys, self._group_numbers(batch, per), passes

    def _group_numbers(self, batch: Any, per: str | None) -> npt.NDArray[np.uint16]:
        if not self._has_kinds and per is None:
            self._groups = self._groups or [_Group(None)]
            return np.zeros(len(batch), dtype=np.uint16)
        kinds = batch.column("kind").to_pandas() if self._has_kinds else pd.Series("", index=range(len(batch)))
        values = batch.column(per).to_pandas().astype("string").fillna("") if per else [""] * len(batch)
        numbers, found = pd.MultiIndex.from_arrays([kinds, values]).factorize()
        for name in found:
            if name not in self._numbers:
                self._numbers[name] = len(self._numbers)
                self._groups.append(_Group(name[0] or None))
        if len(self._groups) > MAX_GROUPS:
            raise DataError(f"per {per!r} has more than {MAX_GROUPS} groups, too many to select from a file")
        return np.array([self._numbers[name] for name in found], dtype=np.uint16)[numbers]

    def _count_rows(self) -> None:
        for chunk in self._keys.chunks():
            everything = np.ones(len(chunk.codes), dtype=bool)
            for name, rows in (("rows", everything), ("scored", chunk.codes != NOT_SCORED), ("passing", chunk.passing)):
                counts = np.bincount(chunk.groups[rows], minlength=len(self._groups))
                for group, count in zip(self._groups, counts.tolist(), strict=True):
                    setattr(group, name, getattr(group, name) + count)

    def _in_full_images(self, limit: int) -> Mask:
        """(rows,) see `crowded`."""
        image = image_column(self._table.columns)
        batches = (batch for _, batch in self._table.batches([self._table.id, image]))
        parts = []
        for batch, chunk in self._keys.with_chunks(batches):
            part = pd.DataFrame({"key": chunk.codes, "group": chunk.groups})
            part["key"] = part["key"].astype("UInt64").where(chunk.passing)
            parts.append(part.assign(sample_id=batch.column(self._table.id), image=batch.column(image).to_pandas()))
        return crowded(pd.concat(parts, ignore_index=True), limit)

    def _quota(self, group: _Group) -> int:
        return quota(self._rule, group.kind, group.rows)

    def _pool_size(self, group: _Group) -> int:
        top = kept_count(group.rows, self._rule.diverse.top) if self._rule.diverse else 0
        return max(self._quota(group), top)

    def _select_best(self, size: Callable[[_Group], int]) -> Mask:
        """Mask of the best ``size`` rows of each group; equal keys are ordered by id."""
        left = np.array([min(size(group), group.passing) for group in self._groups], dtype=np.int64)
        cuts, ties = np.zeros(len(left), dtype=np.uint64), np.zeros(len(left), dtype=np.int64)
        for shift in (48, 32, 16, 0):
            bins = self._histograms(cuts, shift)
            for number in np.flatnonzero(left):
                above = np.cumsum(bins[number, ::-1])
                down = int(np.searchsorted(above, left[number]))
                ties[number] = bins[number, _BINS - 1 - down]
                left[number] -= above[down] - ties[number]
                cuts[number] |= np.uint64(_BINS - 1 - down) << np.uint64(shift)
        cuts[left == 0] = np.iinfo(np.uint64).max
        mask = np.zeros(self._table.rows, dtype=bool)
        whole = left == ties
        for chunk in self._keys.chunks():
            cut = cuts[chunk.groups]
            taken = (chunk.codes > cut) | ((chunk.codes == cut) & whole[chunk.groups])
            mask[chunk.start : chunk.start + len(cut)] = taken & chunk.passing
        for number in np.flatnonzero(left < ties):
            self._take_ties(mask, int(number), cuts[number], int(left[number]))
        return mask

    def _histograms(self, cuts: npt.NDArray[np.uint64], shift: int) -> npt.NDArray[np.int64]:
        """(groups, 65536) passing rows by the 16 key bits from ``shift`` up, if the higher bits equal the cut's."""
        bins = np.zeros((len(cuts), _BINS), dtype=np.int64)
        for chunk in self._keys.chunks():
            inside = chunk.passing
            if shift < 48:
                above = np.uint64(shift + 16)
                inside = inside & ((chunk.codes >> above) == (cuts >> above)[chunk.groups])
            digits = ((chunk.codes[inside] >> np.uint64(shift)) & np.uint64(_BINS - 1)).astype(np.int64)
            positions = chunk.groups[inside].astype(np.int64) * _BINS + digits
            bins += np.bincount(positions, minlength=bins.size).reshape(bins.shape)
        return bins

    def _take_ties(self, mask: Mask, number: int, cut: np.uint64, count: int) -> None:
        def ties() -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
            for ids, chunk in self._with_ids():
                tied = (chunk.codes == cut) & (chunk.groups == number) & chunk.passing
                yield np.flatnonzero(tied) + chunk.start, ids.filter(pa.array(tied))

        last = nth_smallest_id(lambda: (ids for _, ids in ties()), count)
        for rows, ids in ties():
            mask[rows[pc.less_equal(ids, last).to_numpy(zero_copy_only=False)]] = True

    def _with_ids(self) -> Iterator[tuple[Any, Chunk]]:
        """Ids of consecutive rows, with their keys."""
        return self._keys.with_chunks(batch.column(0) for _, batch in self._table.batches([self._table.id]))

    def _select_diverse(self) -> Mask:
        diverse = self._rule.diverse
        assert diverse is not None
        members: list[list[tuple[str, int]]] = [[] for _ in self._groups]
        for ids, chunk in self._with_ids():
            rows = np.flatnonzero(self._pool[chunk.start : chunk.start + len(chunk.codes)])
            for name, row in zip(ids.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True):
                members[chunk.groups[row]].append((name, chunk.start + row))
        kept = self._pool.copy()
        for group, pool in zip(self._groups, members, strict=True):
            if len(pool) > self._quota(group):
                pool.sort()  # by id: the selection must not depend on the order of the rows
                vectors = read_embeddings(diverse.embeddings, [name for name, _ in pool])
                kept[[row for _, row in pool]] = False
                kept[[pool[index][1] for index in facility_location(vectors, self._quota(group))]] = True
        return kept

    def explain(self, dropped: Mask) -> Iterator[Any]:
        """See `FileSelection`."""
        ordered = [self._sorted_codes(number) for number in range(len(self._groups))]
        kinds = pa.array([group.kind for group in self._groups], pa.string())
        rules = pa.array([describe_rule(self._rule, group.kind) for group in self._groups], pa.string())
        reasons = pa.array(["not_drawn" if is_random(self._rule) else "outside_top", *_OTHER_REASONS])
        for ids, chunk in self._with_ids():
            rows = np.flatnonzero(dropped[chunk.start : chunk.start + len(chunk.codes)])
            codes, groups = chunk.codes[rows], chunk.groups[rows]
            reason = np.where(chunk.passing[rows], 0, 1)
            reason[self._pool[chunk.start + rows]] = 2
            if self._keys.refused is not None:
                reason[self._keys.refused[chunk.start + rows]] = 4
            reason[codes == NOT_SCORED] = 3
            ranks, shares = self._ranks(codes, groups, ordered)
            missing = codes == NOT_SCORED
            columns = [
                ids.take(pa.array(rows)).cast(pa.string()),
                kinds.take(pa.array(groups)),
                pa.array(ranks, pa.int64(), mask=missing),
                pa.array(shares, pa.float64(), mask=missing),
                rules.take(pa.array(groups)),
                reasons.take(pa.array(reason)),
            ]
            yield pa.record_batch(columns, DROPPED)

    def _ranks(
        self, codes: npt.NDArray[np.uint64], groups: npt.NDArray[np.uint16], ordered: list[npt.NDArray[np.uint64]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Rank and percentile of each row among the sorted keys of its group."""
        ranks, shares = np.zeros(len(codes), dtype=np.int64), np.zeros(len(codes))
        for number in np.unique(groups):
            rows = np.flatnonzero(groups == number)
            rows = rows[np.argsort(codes[rows])]  # searching sorted values is many times faster
            scored = len(ordered[number])
            ranks[rows] = scored - np.searchsorted(ordered[number], codes[rows], side="right") + 1
            shares[rows] = percentile(ranks[rows], scored)
        return ranks, shares

    def _sorted_codes(self, number: int) -> npt.NDArray[np.uint64]:
        codes = np.empty(self._groups[number].scored, dtype=np.uint64)
        filled = 0
        for chunk in self._keys.chunks():
            found = chunk.codes[(chunk.groups == number) & (chunk.codes != NOT_SCORED)]
            codes[filled : filled + len(found)] = found
            filled += len(found)
        codes.sort()
        return codes
