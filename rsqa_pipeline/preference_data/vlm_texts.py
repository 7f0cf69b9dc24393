"""Texts by the base VLM, sampled at temperature: one of the captioners and answerers that compete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from rsqa_pipeline.images import ImageFault, open_image
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.preference_data.candidate import Subject
from rsqa_pipeline.profile import Sampling
from rsqa_pipeline.records import Message, sha256

BATCH = 64
"""Subjects generated for at once."""
IMAGES_IN_MEMORY = 512


def sample_texts(
    vlm: Vlm, subjects: Sequence[Subject], sampling: Sampling, seed: int, samples: int
) -> Iterator[tuple[Subject, list[str] | ImageFault]]:
    """``samples`` texts for each subject, in order, or what is wrong with its image."""
    for start in range(0, len(subjects), IMAGES_IN_MEMORY):
        part = subjects[start : start + IMAGES_IN_MEMORY]
        opened = [_opened(subject.image) for subject in part]
        usable = [(s, image) for s, image in zip(part, opened, strict=True) if isinstance(image, Image.Image)]
        texts = iter(
            generate(
                vlm,
                [_prompt(subject) for subject, _ in usable],
                [image for _, image in usable],
                sampling,
                sampling.max_new_tokens,
                BATCH,
                int(sha256(str(seed), "vlm", str(start))[:8], 16),
                samples,
            )
        )
        for subject, image in zip(part, opened, strict=True):
            yield subject, image if isinstance(image, ImageFault) else next(texts)


def _prompt(subject: Subject) -> list[Message]:
    """The turns before the answer; a caption answers the caption prompt."""
    return list(subject.context) or [Message(role="user", content=CAPTION_PROMPT)]


def _opened(reference: str) -> Image.Image | ImageFault:
    try:
        return open_image(reference)
    except ImageFault as fault:
        return fault
