"""Text generation with any vision-language model that transformers supports: the profile's captioners and judges.

Models that are trained or used for scoring are of the `models.families`; captioners and judges can be of any family.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.families import FAMILIES
from rsqa_pipeline.models.generate import generate, prompt_fits
from rsqa_pipeline.models.load import Vlm, load_vlm, load_weights, try_template
from rsqa_pipeline.models.model_folder import read_config, reading
from rsqa_pipeline.models.prompt_length import MAX_TEXT_TOKENS
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message


class AnyVlm(Protocol):
    """A model that answers chats about images."""

    def fits(self, chat: Sequence[Message]) -> bool:
        """Whether the model can take the chat's text beside an image."""

    def generate(
        self,
        chats: Sequence[Sequence[Message]],
        images: Sequence[Image.Image | None],
        sampling: Sampling | None,
        max_new_tokens: int,
        seed: int,
    ) -> list[str]:
        """One stripped text per chat. The chats form one batch; either all of them have an image or none has.

        Args:
            sampling: None decodes greedily. Its own max_new_tokens is ignored.
            seed: the same seed and chats give the same texts on the same machine.
        """


class KnownVlm:
    """A model of the `models.families`, with the batches that it is trained and measured with."""

    def __init__(self, vlm: Vlm) -> None:
        self._vlm = vlm

    def fits(self, chat: Sequence[Message]) -> bool:
        """See `AnyVlm.fits`."""
        return prompt_fits(self._vlm.processor, chat)

    def generate(
        self,
        chats: Sequence[Sequence[Message]],
        images: Sequence[Image.Image | None],
        sampling: Sampling | None,
        max_new_tokens: int,
        seed: int,
    ) -> list[str]:
        """See `AnyVlm.generate`."""
        answers = generate(self._vlm, chats, images, sampling, max_new_tokens, len(chats), seed)
        return [texts[0] for texts in answers]


class ProcessorVlm:
    """A model of any other family, with the chat template of its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        self._control_tokens = [*processor.tokenizer.all_special_tokens, processor.image_token]

    def fits(self, chat: Sequence[Message]) -> bool:
        """See `AnyVlm.fits`."""
        text = self._processor.apply_chat_template(self._turns(chat, has_image=False), add_generation_prompt=True)
        return len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]) <= MAX_TEXT_TOKENS

    def generate(
        self,
        chats: Sequence[Sequence[Message]],
        images: Sequence[Image.Image | None],
        sampling: Sampling | None,
        max_new_tokens: int,
        seed: int,
    ) -> list[str]:
        """See `AnyVlm.generate`."""
        texts = [
            self._processor.apply_chat_template(self._turns(chat, image is not None), add_generation_prompt=True)
            for chat, image in zip(chats, images, strict=True)
        ]
        present = [[image] for image in images if image is not None]
        device = self._model.device
        batch = self._processor(text=texts, images=present or None, padding=True, return_tensors="pt")
        batch = batch.to(device, dtype=self._model.dtype)
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": sampling is not None}
        if sampling is not None:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        # generate() draws only from torch's global generator: seed it here and restore its state afterwards
        with torch.inference_mode(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            tokens = self._model.generate(**batch, **settings)
        prompt = batch["input_ids"].shape[1]
        replies: list[str] = self._processor.tokenizer.batch_decode(tokens[:, prompt:], skip_special_tokens=True)
        return [text.strip() for text in replies]

    def _turns(self, chat: Sequence[Message], has_image: bool) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for turn in chat:
            content: list[dict[str, str]] = [{"type": "text", "text": self._without_control_tokens(turn["content"])}]
            if has_image and turn["role"] == "user":
                content.insert(0, {"type": "image"})
                has_image = False
            turns.append({"role": turn["role"], "content": content})
        return turns

    def _without_control_tokens(self, text: str) -> str:
        """The text without the model's control tokens, which would end a turn or insert an image."""
        for token in self._control_tokens:
            text = text.replace(token, " ")
        return text


def load_any_vlm(folder: Path, compute: Compute, trust_remote_code: bool = False) -> AnyVlm:
    """Loads a VLM of any family for which transformers has an image-text-to-text class.

    Raises:
        ModelError: another kind of model, only pickled weights, weights that do not match the configuration, or no
            processor with a chat template.
    """
    read_config(folder)
    with reading(folder / "config.json"):
        family = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).model_type
    if family in FAMILIES:
        return KnownVlm(load_vlm(folder, compute, trust_remote_code=trust_remote_code))
    model = load_weights(AutoModelForImageTextToText, folder, compute, trust_remote_code)
    with reading(folder, "has a processor that cannot be read"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if getattr(processor, "chat_template", None) is None:
        raise ModelError(f"{folder}: the processor has no chat template; add one as chat_template.jinja")
    with reading(folder, "has a chat template that cannot be used"):
        try_template(processor, folder)
    return ProcessorVlm(model, processor)
