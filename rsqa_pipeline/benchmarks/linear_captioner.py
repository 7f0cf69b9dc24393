"""A captioner cheap enough to train hundreds of times: it predicts the words of a caption linearly from its image.

Closed-form ridge regression from a frozen CLIP image embedding to the set of corpus words in a caption. It learns what
the captions say about images, right or wrong, but no grammar and no word order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import CountVectorizer

Floats = npt.NDArray[np.float64]

PENALTY = 0.1
"""Ridge penalty, in units of the embeddings' mean variance."""
MAX_WORDS = 5000


class Vocabulary:
    """A fixed vocabulary that encodes which of its words a text contains."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Builds the vocabulary: the most frequent words of the corpus, each in at least two texts.

        Args:
            texts: texts of the corpus.

        Raises:
            ValueError: no word occurs in two texts.
        """
        self._vectorizer = CountVectorizer(token_pattern=r"\w+", binary=True, min_df=2, max_features=MAX_WORDS)
        self._vectorizer.fit(texts)

    def encode(self, texts: Sequence[str]) -> Any:
        """(n, words) sparse matrix, 1 where the text contains the word."""
        return self._vectorizer.transform(texts).astype(np.float64)


def fit_predict(images: Floats, words: Any, weights: Floats, targets: Floats) -> Floats:
    """(m, words) predicted strength of each word for each target image.

    Args:
        images: (n, width) embeddings of the training captions' images.
        words: (n, words) sparse, see `Vocabulary.encode`.
        weights: (n,) weight of each caption, >= 0, with a positive sum.
        targets: (m, width) embeddings.
    """
    total = weights.sum()
    mean = weights @ images / total
    frequency = np.asarray(words.T @ weights) / total
    centred = images - mean
    weighted = centred * weights[:, None]
    cov = weighted.T @ centred / total
    cov += PENALTY * np.trace(cov) / len(cov) * np.eye(len(cov)) + 1e-12 * np.eye(len(cov))
    # the words need no centring: the weighted sum of `centred` is zero
    cross_cov = np.asarray(words.T @ weighted).T / total
    return (targets - mean) @ np.linalg.solve(cov, cross_cov) + frequency


def words_right(predicted: Floats, truth: npt.NDArray[np.bool_]) -> Floats:
    """(m,) share of an image's k true words among its k highest predictions, in [0, 1]; ties go to the lower index.

    Args:
        predicted: (m, words).
        truth: (m, words), at least one true per row.
    """
    order = np.argsort(-predicted, axis=1, kind="stable")
    right = np.take_along_axis(truth, order, axis=1)
    count = truth.sum(axis=1)
    first = np.arange(truth.shape[1]) < count[:, None]
    share: Floats = (right & first).sum(axis=1) / count
    return share
