"""Rows that a first pass dropped before they were scored count as candidates of a rule that keeps the best share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.corpus import Kind
from rsqa_pipeline.curated_subsets.scoring.first_pass import CANNOT_BE_KEPT, FirstPass, first_pass_path
from rsqa_pipeline.curated_subsets.scoring.shards import quarantine_path
from rsqa_pipeline.curated_subsets.selection.ranking import fraction, kept_count
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

KINDS: tuple[Kind, ...] = get_args(Kind)
_BY_SCORE_ALONE = {"selector", "label", "caption_fraction", "instruction_fraction", "threshold"}


@dataclass(frozen=True)
class FirstPassDrops:
    """What the first pass of a score file dropped."""

    keep: float
    text_hashes: Mapping[str, str]
    """Hash of the text that was dropped, by row key."""

    def rule_for(
        self,
        rule: SubsetRule,
        samples: pd.DataFrame,
        unscored: Iterable[dict[str, Any]],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> SubsetRule:
        """The rule whose fractions of the scored samples keep as many as the given rule's fractions of all.

        Args:
            samples: the scored ones, with a column ``kind``.
            unscored: rows of DROPPED with reason ``no_score``. Those of dropped texts get the reason `CANNOT_BE_KEPT`,
                in place; a text that has changed since becomes a ``stale_score``.
            rows: all rows of the data file by key, with ``text_hash``.

        Raises:
            UsageError: the rule needs more than the scores of the best share that the first pass was told to find.
        """
        dropped = Counter[str]()
        for row in unscored:
            text_hash = self.text_hashes.get(row["key"])
            if row["reason"] == "no_score" and text_hash is not None:
                same = text_hash == rows[row["key"]]["text_hash"]
                row["reason"] = CANNOT_BE_KEPT if same else "stale_score"
                dropped[row["kind"]] += same
        self._refuse(rule, dropped)
        scored = Counter(samples["kind"])
        fractions = {
            f"{kind}_fraction": min(1.0, kept_count(count + dropped[kind], fraction(rule, kind)) / count)
            for kind, count in scored.items()
        }
        return rule.model_copy(update=fractions)

    def _refuse(self, rule: SubsetRule, dropped: Mapping[str, int]) -> None:
        made = f"the scores were made with `rsqa score --adaptive --keep {self.keep:g}`"
        beyond = sorted(rule.model_fields_set - _BY_SCORE_ALONE)
        if rule.selector != "score_model" or beyond:
            raise UsageError(
                f"{made}, which finds the best by score alone; a rule with {', '.join(beyond) or rule.selector} needs "
                "all scores: run `rsqa score` without --adaptive"
            )
        for kind in KINDS:
            share = fraction(rule, kind)
            if dropped.get(kind) and share > self.keep:
                raise UsageError(
                    f"{made}, so the best {share:g} of the {kind}s cannot be told: run `rsqa score` again with "
                    f"--keep {share:g} or without --adaptive"
                )


def refuse_first_pass(scores: Path) -> None:
    """Raises UsageError if a first pass dropped rows: without the scored file, their kinds are not known."""
    if first_pass_drops(scores) is not None:
        raise UsageError(
            f"{scores} was made with `rsqa score --adaptive`: name the scored file, too (--data), so that the rows "
            "that the first pass dropped are counted"
        )


def first_pass_drops(scores: Path) -> FirstPassDrops | None:
    """What a first pass dropped from a file's scores; None if there was none, or all rows have been scored since.

    Raises:
        DataError: the quarantine table beside the scores cannot be read, or rows were dropped and the record of the
            first pass is missing or damaged.
    """
    quarantine = quarantine_path(scores)
    if not quarantine.is_file():
        return None
    try:
        table = pq.read_table(quarantine, columns=["sample_id", "reason", "detail"])
        table = table.filter(pc.equal(table["reason"], CANNOT_BE_KEPT))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"{quarantine} is not a quarantine table: {type(error).__name__}; delete it and run `rsqa score` again"
        ) from error
    if not len(table):
        return None
    hashes = (detail.partition(":")[0] for detail in table["detail"].to_pylist())
    keep = FirstPass.read(first_pass_path(scores)).keep
    return FirstPassDrops(keep, dict(zip(table["sample_id"].to_pylist(), hashes, strict=True)))
