"""Texts by models: the base VLM sampled at temperature, and any model of the profile."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.preference_data.build_pairs import Pairs
from rsqa_pipeline.preference_data.candidate import Candidate, Subject, unusable_text
from rsqa_pipeline.preference_data.chat.model import ChatModel, ChatModels
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import BASE_VLM
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message, sha256

BATCH = 64
"""Subjects per batch of the base VLM."""
MAX_IMAGES_IN_MEMORY = 512
BASE_MODEL = "base_models/vlm"
"""Name of the base VLM in the table of generations; its path differs between machines."""


def base_vlm_texts(
    vlm: Vlm, subjects: Sequence[Subject], sampling: Sampling, seed: int, samples: int, pairs: Pairs
) -> list[Candidate]:
    """``samples`` texts by the base VLM for each subject, in order; an image that cannot be opened is quarantined."""
    candidates = []
    for start in range(0, len(subjects), MAX_IMAGES_IN_MEMORY):
        part = subjects[start : start + MAX_IMAGES_IN_MEMORY]
        opened = [_opened(subject.image) for subject in part]
        usable = [(s, image) for s, image in zip(part, opened, strict=True) if isinstance(image, Image.Image)]
        for subject, image in zip(part, opened, strict=True):
            if isinstance(image, ImageFault):
                pairs.quarantine.add(subject.key, image.reason, image.detail)
        written = generate(
            vlm,
            [prompt_of(subject) for subject, _ in usable],
            [image for _, image in usable],
            sampling,
            sampling.max_new_tokens,
            BATCH,
            int(sha256(str(seed), "vlm", str(start))[:8], 16),
            samples,
        )
        for (subject, _), texts in zip(usable, written, strict=True):
            for draw, text in enumerate(texts):
                candidates.append(Candidate(subject, text, BASE_VLM))
                request, reply = request_for(subject, sampling, draw), Reply(text, vlm.version)
                pairs.add_generation(purpose_of(subject), subject.image_id, BASE_VLM, reply, BASE_MODEL, request)
    return candidates


def model_texts(
    model: ChatModel, subjects: Sequence[Subject], sampling: Sampling, seed: int, pairs: Pairs
) -> list[Candidate]:
    """One text per subject by a model of the profile.

    Quarantined, by model and subject: an image that cannot be opened, ``model_unreachable``, ``model_refused``,
    ``empty_text``, ``text_too_long``.

    Raises:
        BudgetError, ServerError: see `ChatModel.ask`.
    """
    requests = [request_for(subject, sampling, draw=seed) for subject in subjects]
    candidates = []
    for subject, request, reply in zip(subjects, requests, model.ask(requests), strict=True):
        fault = reply_fault(reply)
        if isinstance(reply, NoReply) or fault is not None:
            reason, detail = fault or ("", "")
            pairs.quarantine.add(sha256(subject.key, model.name), reason, f"{model.name}: {detail}")
            continue
        candidates.append(Candidate(subject, reply.text, model.name))
        purpose, named = purpose_of(subject), model.settings.model
        pairs.add_generation(purpose, subject.image_id, model.name, reply, named, request)
    return candidates


class ModelWriters:
    """Models that caption and answer, by name: the base VLM, loaded on first use, and the profile's models."""

    def __init__(self, base_models: Path, models: ChatModels, settings: Profile, pairs: Pairs) -> None:
        self.models, self.settings, self.pairs = models, settings, pairs
        self._base_models = base_models

    @cached_property
    def _vlm(self) -> Vlm:
        return load_vlm(base_model(self._base_models, "vlm"), self.settings.compute)

    def write(self, name: str, subjects: Sequence[Subject], samples: int) -> list[Candidate]:
        """Texts on the subjects: ``samples`` per subject by the base VLM, one per subject by any other model."""
        sampling, seed = self.settings.preference_data.sampling, self.settings.seed
        if name == BASE_VLM:
            return base_vlm_texts(self._vlm, subjects, sampling, seed, samples, self.pairs)
        return model_texts(self.models[name], subjects, sampling, seed, self.pairs)


def reply_fault(reply: Reply | NoReply) -> tuple[str, str] | None:
    """Reason and detail if a model wrote nothing usable, else None."""
    if isinstance(reply, NoReply):
        of_model = reply.reason in ("unreachable", "refused")
        return (f"model_{reply.reason}" if of_model else reply.reason), reply.detail
    return unusable_text(reply.text)


def request_for(subject: Subject, sampling: Sampling, draw: int) -> ChatRequest:
    """The prompt for a caption, or for the answer to the subject's question."""
    return ChatRequest(
        tuple(prompt_of(subject)),
        subject.image_id,
        subject.image,
        sampling.max_new_tokens,
        sampling.temperature,
        sampling.top_p,
        draw=draw,
    )


def purpose_of(subject: Subject) -> str:
    return "answer" if subject.context else "caption"


def prompt_of(subject: Subject) -> list[Message]:
    """The turns before the answer; for a caption, the caption prompt."""
    return list(subject.context) or [Message(role="user", content=CAPTION_PROMPT)]


def _opened(reference: str) -> Image.Image | ImageFault:
    try:
        return open_image(reference)
    except ImageFault as fault:
        return fault
