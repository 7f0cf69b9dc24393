"""Asks a transformers VLM on this machine. Its batches are the same after a kill as in an uninterrupted run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from PIL import Image

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.any_vlm import AnyVlm, load_any_vlm
from rsqa_pipeline.models.load import local_folder, weights_version
from rsqa_pipeline.models.prompt_length import MAX_TEXT_TOKENS
from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog
from rsqa_pipeline.preference_data.chat.request import PROMPT_TOO_LONG, ChatRequest, NoReply, Reply
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.preference_data import TextModel
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import sha256

BATCH = 16
"""Prompts per batch."""


class LocalModel:
    """A VLM by folder or hub id. Its weights are loaded at the first prompt that is not in the log."""

    def __init__(self, settings: TextModel, compute: Compute) -> None:
        """
        Raises:
            ModelError: the folder or hub id does not exist, or has no safetensors.
        """
        self._settings, self._compute = settings, compute
        self._folder = local_folder(settings.model, settings.revision, settings.trust_remote_code)
        self.identity = weights_version(self._folder)

    @cached_property
    def _vlm(self) -> AnyVlm:
        return load_any_vlm(self._folder, self._compute, self._settings.trust_remote_code)

    def answer(self, requests: Mapping[str, ChatRequest], log: ReplyLog) -> dict[str, NoReply]:
        """Generates the replies that are not in the log; see `ModelBackend.answer`.

        A batch with any reply missing is generated as a whole, so that a killed run gives the same texts as an
        uninterrupted one.
        """
        faults: dict[str, NoReply] = {}
        keys = list(requests)
        for start in range(0, len(keys), BATCH):
            batch = {key: requests[key] for key in keys[start : start + BATCH]}
            if all(key in log for key in batch):
                continue
            opened: dict[str, Image.Image | None] = {}
            for key, request in batch.items():
                if not self._vlm.fits(request.messages):
                    faults[key] = NoReply(PROMPT_TOO_LONG, f"the prompt has more than {MAX_TEXT_TOKENS} tokens of text")
                    continue
                try:
                    opened[key] = open_image(request.image) if request.image is not None else None
                except ImageFault as fault:
                    faults[key] = NoReply(fault.reason, fault.detail)
            for key, text in self._generate({key: batch[key] for key in opened}, opened).items():
                if key not in log:
                    log.append(key, self.identity, Reply(text, self.identity))
        return faults

    def _generate(self, batch: Mapping[str, ChatRequest], images: Mapping[str, Image.Image | None]) -> dict[str, str]:
        """One text per key. Prompts that differ in sampling, or in whether they have an image, are generated
        separately."""
        by_sampling: dict[tuple[float, float, int, bool], list[str]] = {}
        for key, request in batch.items():
            sampling_key = (request.temperature, request.top_p, request.max_new_tokens, request.image is not None)
            by_sampling.setdefault(sampling_key, []).append(key)
        texts: dict[str, str] = {}
        for (temperature, top_p, length, _), keys in by_sampling.items():
            sampling = None
            if temperature > 0:
                sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=length)
            seed = int(sha256(*keys)[:8], 16)
            generated = self._vlm.generate(
                [batch[key].messages for key in keys], [images[key] for key in keys], sampling, length, seed
            )
            texts |= dict(zip(keys, generated, strict=True))
        return texts
