"""A captioner cheap enough to train hundreds of times: the words of a caption as a linear function of its image.

Ridge regression, in closed form, from a frozen CLIP's image embedding to which words of the corpus a caption has. It
learns what a set of captions says about images, wrong words with right ones, and nothing else: no grammar, no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import CountVectorizer

Floats = npt.NDArray[np.float64]

PENALTY = 0.1
"""Of the weights, in units of the embeddings' mean variance."""
MOST_WORDS = 5000


class Words:
    """Which words of a fixed vocabulary a text has."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Args: texts of the corpus; its most frequent words, each in two texts or more, are the vocabulary.

        Raises:
            ValueError: no word stands in two texts.
        """
        self._vectorizer = CountVectorizer(token_pattern=r"\w+", binary=True, min_df=2, max_features=MOST_WORDS)
        self._vectorizer.fit(texts)

    def of(self, texts: Sequence[str]) -> Any:
        """(n, words) sparse, 1 where the text has the word."""
        return self._vectorizer.transform(texts).astype(np.float64)


def fit_predict(images: Floats, words: Any, weights: Floats, targets: Floats) -> Floats:
    """(m, words) how strongly each target image calls for each word.

    Args:
        images: (n, width) embeddings of the training captions' images.
        words: (n, words) sparse, see `Words.of`.
        weights: (n,) how often each caption counts, >= 0, with a positive sum.
        targets: (m, width) embeddings.
    """
    total = weights.sum()
    mean = weights @ images / total
    frequency = np.asarray(words.T @ weights) / total
    centred = images - mean
    weighted = centred * weights[:, None]
    spread = weighted.T @ centred / total
    spread += PENALTY * np.trace(spread) / len(spread) * np.eye(len(spread)) + 1e-12 * np.eye(len(spread))
    # words are centred by the embeddings' being so: the weighted sum of `centred` is zero
    together = np.asarray(words.T @ weighted).T / total
    return (targets - mean) @ np.linalg.solve(spread, together) + frequency


def words_right(predicted: Floats, truth: npt.NDArray[np.bool_]) -> Floats:
    """(m,) share of an image's k true words among its k strongest predicted ones, in [0, 1]; ties go by place.

    Args:
        predicted: (m, words).
        truth: (m, words), at least one true a row.
    """
    order = np.argsort(-predicted, axis=1, kind="stable")
    right = np.take_along_axis(truth, order, axis=1)
    count = truth.sum(axis=1)
    first = np.arange(truth.shape[1]) < count[:, None]
    share: Floats = (right & first).sum(axis=1) / count
    return share
