"""Quality-driven curation of remote-sensing vision-language data with learned score models.

The public API scores texts about an image and keeps the best part of a scored corpus::

    import rsqa_pipeline

    scorer = rsqa_pipeline.load_scorer("models/score_model")
    rsqa_pipeline.score(scorer, "airport_1.jpg", ["many planes at an airport", "a green forest"])  # [2.31, -0.87]

    rows = rsqa_pipeline.curate("scores.parquet", keep=0.3)  # a table written by `rsqa score`
    rows[rows["kept"]]

Importing the package is fast: torch and transformers are imported by the functions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from rsqa_pipeline.score_model.scoring.scorer import Scorer

__all__ = ["__version__", "curate", "load_scorer", "score"]

__version__: str = version("rsqa-pipeline")


def load_scorer(model: str | PathLike[str], device: str = "auto") -> Scorer:
    """Loads a score model for `score`. Load it once and reuse it: loading takes seconds, scoring much less.

    Args:
        model: folder of a score model with its processor, in this project's layout or the released one, or a hub id.
        device: "auto" (a GPU if one is available), "cpu" or "cuda".

    Returns:
        The scorer, in float32 and evaluation mode. ``scorer.version`` is the hash of its weights.

    Raises:
        ValueError: unknown device.
        ModelError: the checkpoint does not exist or cannot be used, or "cuda" is requested without a GPU.

    Examples:
        >>> scorer = load_scorer("models/score_model", device="cpu")  # doctest: +SKIP
    """
    from rsqa_pipeline.profile import Compute

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {device!r}")
    from rsqa_pipeline.score_model.scoring.scorer import Scorer

    return Scorer.load(str(model), Compute.model_validate({"device": device}))


def score(scorer: Scorer, image: str | PathLike[str], texts: Sequence[str]) -> list[float | None]:
    """Scores texts about one image in one pass: the image is encoded once, however many texts there are.

    A text's score does not depend on the other texts.

    Args:
        scorer: from `load_scorer`.
        image: path of an image file of any size; a part of a file is addressed as ``images.tar#offset+size``.
        texts: captions, of any number and length; a text beyond the model's context is cut at its end.

    Returns:
        One score per text, in the same order. Higher is better; the unit is the model's own: unbounded, or above 0 for
        a model with softplus. None where there is no score, e.g. because the image is missing or damaged; the reason is
        available from ``scorer.score_or_reason``.

    Raises:
        TypeError: ``texts`` is a single string.

    Examples:
        >>> score(scorer, "airport_1.jpg", ["many planes at an airport", "a green forest"])  # doctest: +SKIP
        [2.31, -0.87]
    """
    from rsqa_pipeline.models.scoring_group import ScoringGroup

    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, found a single string")
    return scorer.score([ScoringGroup(str(image), [], list(texts))])[0]


def curate(
    scores: str | PathLike[str] | pd.DataFrame, keep: float | Mapping[str, Any] = 0.3, seed: int = 0
) -> pd.DataFrame:
    """Keeps the best part of a scored corpus and gives a reason for every dropped row.

    Keeps the same rows as ``rsqa curate`` does on the same scores.

    Args:
        scores: a table as ``rsqa score`` writes it: a Parquet file, a CSV file or a DataFrame. Columns ``key`` (or
            ``sample_id``) and ``score`` (or ``score_model``; higher is better, missing where there is no score); with a
            column ``kind`` (caption or instruction) the fraction is kept of each kind.
        keep: fraction of the rows to keep, in (0, 1], rounded to the nearest whole row and at least one. Or a rule with
            the keys of a subset in a profile, e.g. ``{"selector": "score_model", "caption_fraction": 0.3,
            "instruction_fraction": 0.3, "per": "scene_class", "floor": 5}``.
        seed: of rules that draw rows at random (selector ``random``, or a ``temperature``); a fraction is kept
            without drawing.

    Returns:
        One row per input row, in the same order: ``key``; ``kept`` (bool); ``rank`` (1 is best, missing without a
        score); ``percentile`` (share of scored rows, in %, that the row ranks above or level with); ``rule`` in words;
        ``reason`` of a dropped row (``no_score``, ``below_threshold``, ``outside_top``, ``not_drawn`` or
        ``too_similar``), None for a kept one. With ``kind`` or ``per``, ranks count within a group.

    Raises:
        ValueError: a fraction outside (0, 1].
        DataError: the file does not exist or cannot be read, a column is missing, or the rule is not valid.

    Examples:
        >>> import pandas as pd
        >>> rows = curate(pd.DataFrame({"key": ["a", "b", "c"], "score": [0.2, 1.5, None]}), keep=1 / 3)
        >>> rows[["key", "kept", "reason"]].values.tolist()
        [['a', False, 'outside_top'], ['b', True, None], ['c', False, 'no_score']]
    """
    from rsqa_pipeline.curated_subsets.selection.score_frame import read_scores, rule_from, select_rows

    return select_rows(read_scores(scores), rule_from(keep), seed)
