"""Opens images for the comparison that the profile selects."""

from __future__ import annotations

from collections.abc import Sequence

from rsqa_pipeline.profile import Duplicates, Profile
from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet
from rsqa_pipeline.source_pairs.duplicates.perceptual import Thumbnails

PERCEPTUAL_THRESHOLD = 0.88
"""Minimum correlation of near-duplicates, if the profile gives none (see docs/own_data.md)."""
EMBEDDING_THRESHOLD = 0.65
"""Minimum cosine of near-duplicates for copy-detection embeddings (paper, preference data)."""


def threshold_of(config: Duplicates) -> float:
    """Minimum similarity of near-duplicate images, in (0, 1]."""
    if config.image_threshold is not None:
        return config.image_threshold
    return PERCEPTUAL_THRESHOLD if config.image_model is None else EMBEDDING_THRESHOLD


def read_images(references: Sequence[str], config: Duplicates, max_pixels: int, settings: Profile) -> ImageSet:
    """Opens every image once. Raises ModelError if the model cannot be loaded, ImageFault as `open_image`."""
    if config.image_model is None:
        return Thumbnails.read(references, max_pixels)
    from rsqa_pipeline.models.embedding import load_image_embedder  # torch is not needed otherwise
    from rsqa_pipeline.source_pairs.duplicates.embedded import EmbeddedImages

    embed = load_image_embedder(config.image_model, settings.compute)
    return EmbeddedImages(references, max_pixels, embed, threshold_of(config))
