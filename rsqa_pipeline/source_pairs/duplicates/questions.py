"""The second stage for instructions: samples on near-duplicate images are duplicates only if their questions are
similar (paper, preference data: question similarity > 0.65 and image similarity > 0.65 -> keep one)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.models.embedding import load_text_embedder
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, Ints

_BLOCK = 1024


def question_of(messages: Sequence[Message]) -> str:
    """The user's turns, joined by newlines; all turns if none is the user's."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return "\n".join(asked or [message["content"] for message in messages])


def text_vectors(texts: Sequence[str], model: str | None, compute: Compute) -> Any:
    """(n, width) unit vectors: embeddings by ``model``, a folder or hub id. Without a model: sparse TF-IDF weights
    of the words, fitted on these texts.

    Raises:
        ModelError: the model cannot be loaded.
    """
    if model is not None:
        return load_text_embedder(model, compute)(texts)
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Keep digits and one-letter words, which separate "3 ships" from "4 ships", and A from B. The default drops them.
    return TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform(texts)


def similar_pairs(vectors: Any, threshold: float) -> Ints:
    """(2, m) pairs of rows with a cosine of at least ``threshold``, the smaller row first."""
    found = [np.empty((2, 0), np.int64)]
    for start in range(0, vectors.shape[0], _BLOCK):
        first, second = np.nonzero(_dense(vectors[start : start + _BLOCK] @ vectors.T) >= threshold)
        before = first + start < second
        found.append(np.stack([first[before] + start, second[before]]))
    return np.concatenate(found, axis=1)


def _dense(product: Any) -> Floats:
    return product if isinstance(product, np.ndarray) else product.toarray()
