"""Zero-shot classification with CLIP (paper, evaluation): class names in templates, the nearest text wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rsqa_pipeline.models.clip_embeddings import embed_texts, unit_rows
from rsqa_pipeline.models.load import Clip

Floats = npt.NDArray[np.float32]


def class_embeddings(clip: Clip, classes: Sequence[str], templates: Sequence[str], batch_size: int) -> Floats:
    """(classes, width) unit rows: the mean over templates of each class's unit text embeddings.

    Args:
        classes: names as spelled in the data; ``storage_tanks`` is read as "storage tanks".
        templates: each contains ``{class}``.
    """
    texts = [template.replace("{class}", display_name(name)) for name in classes for template in templates]
    vectors = embed_texts(clip, texts, batch_size).reshape(len(classes), len(templates), -1)
    return unit_rows(vectors.mean(axis=1))


def display_name(class_name: str) -> str:
    """A class name with spaces instead of underscores."""
    return class_name.replace("_", " ")


def truth_ranks(similarities: Floats, truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) rank of each row's true column, 1 is best.

    Ties and NaN similarities count against the model: a collapsed CLIP ranks the truth last.

    Args:
        similarities: (n, classes).
        truth: (n,) column of the true class.
    """
    own = np.take_along_axis(similarities, truth[:, None], axis=1)
    return similarities.shape[1] - (similarities < own).sum(axis=1)
