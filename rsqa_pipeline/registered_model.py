"""Loads a registered model for `mlflow.pyfunc.load_model`; its ``MLmodel`` names this module as the loader.

A model takes a table with the columns ``image`` (reference, see `images.references`; a relative path counts from the
current folder) and ``text``, and gives one value per row. A row without one is logged with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from rsqa_pipeline import load_scorer
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.any_vlm import KnownVlm
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import load_vlm, weights_version
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.tracking.pyfunc_files import IMAGE, OUTPUTS, TEXT, model_kind, recorded_weights

CLIP_BATCH = 32
"""Images, and texts, that a CLIP embeds at once."""
MAX_ANSWER_TOKENS = 128

log = logging.getLogger(__name__)


class PairScorer(Protocol):
    """The score model and CLIP."""

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]: ...


class TableScorer:
    """One score per row of a table, as `rsqa_pipeline.score` gives it for the row's image and text."""

    def __init__(self, scorer: PairScorer, name: str) -> None:
        """
        Args:
            name: of the output.
        """
        self._scorer, self._name = scorer, name

    def predict(self, table: pd.DataFrame) -> pd.Series:
        """Scores (float64) in the order of the rows, with the table's index; NaN where there is none."""
        rows = [_read(row) for row in _rows(table)]
        usable = [number for number, row in enumerate(rows) if not isinstance(row, str)]
        groups = [ScoringGroup(image, [], [text]) for image, text in (row for row in rows if not isinstance(row, str))]
        values: list[float | None] = [None] * len(rows)
        for number, (score,) in zip(usable, self._scorer.score_or_reason(groups), strict=True):
            values[number] = score.value
            if score.value is None:
                rows[number] = f"{score.reason}: {score.detail}" if score.detail else str(score.reason)
        _log_missing(table, rows, self._name)
        return pd.Series(values, index=table.index, name=self._name, dtype="float64")


class TableAnswerer:
    """The greedy answer of a VLM to each row's text about its image."""

    def __init__(self, vlm: KnownVlm, name: str) -> None:
        """
        Args:
            name: of the output.
        """
        self._vlm, self._name = vlm, name

    def predict(self, table: pd.DataFrame) -> pd.Series:
        """Answers (str) in the order of the rows, with the table's index; None where there is none."""
        rows = [_read(row) for row in _rows(table)]
        values: list[str | None] = [None] * len(rows)
        for number, row in enumerate(rows):
            if isinstance(row, str):
                continue
            chat: list[Message] = [{"role": "user", "content": row[1]}]
            if not self._vlm.fits(chat):
                rows[number] = "text_too_long: the text does not fit the model's context"
                continue
            try:
                values[number] = self._vlm.generate([chat], [open_image(row[0])], None, MAX_ANSWER_TOKENS, 0)[0]
            except ImageFault as fault:
                rows[number] = str(fault)
        _log_missing(table, rows, self._name)
        return pd.Series(values, index=table.index, name=self._name, dtype="object")


def _load_pyfunc(path: str) -> TableScorer | TableAnswerer:
    """The model of a registered version's folder, on a GPU if one is available; MLflow calls this.

    Raises:
        ModelError: the folder holds no model of this package, one that cannot be used, or other weights than were
            registered.
    """
    folder, compute = Path(path), Compute()
    found, recorded = weights_version(folder), recorded_weights(folder)
    if found != recorded:
        raise ModelError(
            f"{path}: the weights are {found[:12]}, registered were {recorded[:12]}; restore the folder, or delete "
            "this version from the registry and train again"
        )
    kind = model_kind(folder)
    if kind is None:
        raise ModelError(f"{path} is neither a score model nor a CLIP or VLM of this package; register it again")
    name = OUTPUTS[kind].name
    if kind == "vlm":
        return TableAnswerer(KnownVlm(load_vlm(path, compute)), name)
    scorer = load_scorer(path) if kind == "scorer" else ClipScorer.load(path, compute, CLIP_BATCH)
    return TableScorer(scorer, name)


def _rows(table: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(zip(table[IMAGE], table[TEXT], strict=True))


def _read(row: tuple[Any, Any]) -> tuple[str, str] | str:
    """Image and text of a row, or the reason why it cannot be used."""
    image, text = row
    if not isinstance(image, str) or not image:
        return "no_image: the row names no image"
    if not isinstance(text, str) or not text.strip():
        return "no_text: the row has no text"
    return image, text


def _log_missing(table: pd.DataFrame, rows: Sequence[tuple[str, str] | str], what: str) -> None:
    for index, row in zip(table.index, rows, strict=True):
        if isinstance(row, str):
            log.warning("row %s has no %s: %s", index, what, row)
