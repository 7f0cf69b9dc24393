"""Selection from scores in memory: a data frame or a score file in, a data frame of decisions out."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, SPREAD, apply_rule
from rsqa_pipeline.curated_subsets.selection.score_reader import ScoreTable
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

COLUMNS = ["key", "kept", "rank", "percentile", "rule", "reason"]
_NUMBERS = ("score", *SCORED, SPREAD)


def rule_from(keep: float | Mapping[str, Any]) -> SubsetRule:
    """The rule that keeps a fraction of the best rows, or the one with these keys.

    Raises:
        ValueError: a fraction outside (0, 1].
        DataError: the keys do not make a rule.
    """
    if not isinstance(keep, Mapping):
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be a fraction in (0, 1], found {keep}")
        keep = {"selector": "score_model", "caption_fraction": keep, "instruction_fraction": keep}
    try:
        return SubsetRule.model_validate(dict(keep))
    except ValidationError as error:
        faults = "; ".join(".".join(map(str, fault["loc"])) + f": {fault['msg']}" for fault in error.errors())
        raise DataError(f"keep is not a rule: {faults.removeprefix(': ')}") from None


def read_scores(scores: str | PathLike[str] | pd.DataFrame) -> pd.DataFrame:
    """A score file, Parquet or (by its ending) CSV, as a data frame; a data frame is returned as it is.

    Raises:
        DataError: the file does not exist or cannot be read, or it has no ids.
    """
    if isinstance(scores, pd.DataFrame):
        return scores
    path = Path(scores)
    if path.suffix.lower() != ".csv":
        table = ScoreTable(path)
        # earlier models' scores and notes are of no use to a rule
        wanted = [name for name in table.columns if not name.startswith(("score@", "note@"))]
        frames = [batch.to_pandas() for _, batch in table.batches(wanted)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=wanted)
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"no score file {path}; make it with `rsqa score`") from None
    except (OSError, ValueError) as error:  # a parser's error is a ValueError
        raise DataError(f"{path} is not a CSV file: {error}") from error
    return text.mask(text == "") if text.size else text


def select_rows(scores: pd.DataFrame, rule: SubsetRule, seed: int) -> pd.DataFrame:
    """Applies a rule to scores: one row per input row, in the same order, with COLUMNS.

    Args:
        scores: columns ``key`` or ``sample_id``; ``score`` or one column per selector; ``kind`` (otherwise all rows are
            of one kind); the columns that the rule groups by.

    Raises:
        DataError: a column that the rule needs is missing, a score is not a number, or the rule has one fraction for
            captions and another for instructions and the scores have no kinds.
    """
    ids = next((name for name in ("key", "sample_id") if name in scores), None)
    if ids is None:
        raise DataError(f"scores need a column key or sample_id; found {', '.join(map(str, scores.columns))}")
    samples = scores.reset_index(drop=True)
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        if name in samples:
            try:
                numbers[name] = pd.to_numeric(samples[name]).to_numpy(dtype=float, na_value=np.nan)
            except (ValueError, TypeError) as error:
                raise DataError(f"column {name!r} must contain numbers: {error}") from error
    if "score" in numbers:
        numbers.setdefault("score_model", numbers["score"])
    samples = samples.assign(sample_id=samples[ids].astype(str), **numbers)
    if "kind" not in samples:
        if _treats_kinds_differently(rule):
            raise DataError(
                "the rule has one fraction for captions and another for instructions, but the scores have no column "
                "kind"
            )
        samples = samples.assign(kind="row")
    elif samples["kind"].isna().any():
        raise DataError("column 'kind' has missing values; each row needs caption or instruction")
    decisions = apply_rule(samples, rule, seed)
    return decisions.assign(key=samples["sample_id"])[COLUMNS]


def _treats_kinds_differently(rule: SubsetRule) -> bool:
    if rule.parts:
        return any(_treats_kinds_differently(part) for part in rule.parts)
    return rule.caption_fraction != rule.instruction_fraction
