"""Opens images the way that the profile wants them compared."""

from __future__ import annotations

from collections.abc import Sequence

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet
from rsqa_pipeline.source_pairs.duplicates.perceptual import Thumbnails

PERCEPTUAL_THRESHOLD = 0.88
"""Correlation from which on two images are near-duplicates, where the profile gives none (see docs/own_data.md)."""
EMBEDDING_THRESHOLD = 0.65
"""Cosine, for copy-detection embeddings (paper, preference data)."""


def threshold_of(wanted: Duplicates) -> float:
    """Similarity in (0, 1] from which on two images are near-duplicates."""
    if wanted.image_threshold is not None:
        return wanted.image_threshold
    return PERCEPTUAL_THRESHOLD if wanted.image_model is None else EMBEDDING_THRESHOLD


def read_images(references: Sequence[str], wanted: Duplicates, max_pixels: int, settings: Profile) -> ImageSet:
    """Opens every image once. Raises ModelError where the model cannot be loaded, ImageFault as `open_image`."""
    if wanted.image_model is None:
        return Thumbnails.read(references, max_pixels)
    from rsqa_pipeline.models.embedding import load_image_embedder  # torch is not needed otherwise
    from rsqa_pipeline.source_pairs.duplicates.embedded import EmbeddedImages

    embed = load_image_embedder(wanted.image_model, settings.compute)
    return EmbeddedImages(references, max_pixels, embed, threshold_of(wanted))
