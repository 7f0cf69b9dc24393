"""All that differs between families of VLMs. Loaders, trainers, generation and benchmarks look here, so that a new
family is one more entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import Idefics3Processor, LlavaProcessor, PreTrainedModel, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.profile import Boxes

_LINEAR_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"

LLAVA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The chats that LLaVA-1.5 was trained on. The template that it is published with leaves out the start of the text and
the end of an answer, so a model that is fine-tuned with it never learns to stop."""


@dataclass(frozen=True)
class ChatForm:
    """How a processor writes chats and shows images."""

    processor: type[ProcessorMixin]
    image_tokens: tuple[str, ...]
    """Tokens that stand for an image. A generated one would refer to an image that does not exist."""
    end_of_turn: str | None = None
    """Token that ends an answer; None: the tokenizer's end of sequence."""
    before_answer: str = ""
    """What the template writes between its generation prompt and the answer."""
    template: str | None = None
    """Used where the stored chat template does not write ``end_of_turn``, or there is none."""
    grid: bool = False
    """Whether images become patches with a grid (``image_grid_thw``) whose tokens have positions over time, height and
    width. Candidates of the score model can then share an image."""
    tiled: bool = False
    """Whether a large image is cut into tiles of the image processor's ``max_image_size``."""

    def end_token(self, tokenizer: Any) -> str:
        """The token that ends an answer."""
        return self.end_of_turn or str(tokenizer.eos_token)

    def suppressed(self, tokenizer: Any) -> list[int]:
        """Ids of the ``image_tokens`` that the tokenizer has."""
        known = tokenizer.get_vocab()
        return [known[token] for token in self.image_tokens if token in known]


@dataclass(frozen=True)
class BoxForm:
    """How a family was trained to write boxes."""

    boxes: Boxes
    frame: Literal["image", "resized", "square"] = "image"
    """What the numbers count: the image, the image as resized by the processor (``pixels`` are then of that size), or
    the image padded on both sides to a square."""


@dataclass(frozen=True)
class Family:
    """Names of submodules of ``model.model``, for an image-text-to-text ``model`` of transformers, and its conventions.

    Example: Qwen2-VL keeps its connector inside the tower, LLaVA beside it.
    """

    vision: str
    connector: tuple[str, ...]
    """Modules that turn image features into the language model's embeddings; in some families part of the tower."""
    language: str
    chat: ChatForm
    boxes: BoxForm | None
    """None: the family was not trained to write boxes."""
    deepstack: bool = False
    """Whether each of the first language layers gets image features of its own."""

    @property
    def lora_targets(self) -> str:
        """Pattern of the names of the language model's linear layers. It is bound to the language model, since the
        towers of some families have layers of the same names."""
        return rf".*\b{self.language}\.layers\..*\.({_LINEAR_LAYERS})"

    def connector_of(self, model: PreTrainedModel) -> list[nn.Module]:
        """The connector's modules."""
        return [model.model.get_submodule(name) for name in self.connector]

    def vision_of(self, model: PreTrainedModel) -> list[nn.Module]:
        """Everything that sees the image: tower and connector."""
        return [model.model.get_submodule(self.vision), *self.connector_of(model)]


_QWEN = ChatForm(
    Qwen2VLProcessor,
    image_tokens=("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    end_of_turn="<|im_end|>",
    grid=True,
)
_LLAVA = ChatForm(LlavaProcessor, image_tokens=("<image>",), before_answer=" ", template=LLAVA_TEMPLATE)
_IDEFICS3 = ChatForm(
    Idefics3Processor,
    image_tokens=(
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ),
    end_of_turn="<end_of_utterance>",  # not the tokenizer's end of sequence, and not in the published generation config
    before_answer=" ",
    tiled=True,
)
_PARTS_OF_1000 = BoxForm(Boxes(unit="0..1000"))

FAMILIES = {
    "qwen2_vl": Family("visual", ("visual.merger",), "language_model", _QWEN, _PARTS_OF_1000),
    "qwen2_5_vl": Family(
        "visual", ("visual.merger",), "language_model", _QWEN, BoxForm(Boxes(unit="pixels"), "resized")
    ),
    "qwen3_vl": Family(
        "visual",
        ("visual.merger", "visual.deepstack_merger_list"),
        "language_model",
        _QWEN,
        _PARTS_OF_1000,
        deepstack=True,
    ),
    "llava": Family(
        "vision_tower",
        ("multi_modal_projector",),
        "language_model",
        _LLAVA,
        BoxForm(Boxes(unit="fraction"), "square"),
    ),
    "idefics3": Family("vision_model", ("connector",), "text_model", _IDEFICS3, None),
}
"""Families by the ``model_type`` of config.json."""


def family_named(model_type: object, folder: Path | None = None) -> Family:
    """The family of a ``model_type``.

    Args:
        folder: whose config.json has it; named in the error.

    Raises:
        ModelError: it is unknown.
    """
    found = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if found is None:
        place = "" if folder is None else f"{folder}: "
        raise ModelError(
            f"{place}model type {model_type!r} is unknown; known: {', '.join(FAMILIES)}. Add the names of its vision "
            "tower, connector and language model, its processor, its image tokens and its boxes to "
            "rsqa_pipeline/models/families.py"
        )
    return found


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model, or of its backbone without a language head.

    Raises:
        ModelError: it is unknown.
    """
    return family_named(model.config.model_type)


def chat_form_of(processor: ProcessorMixin) -> ChatForm:
    """How a processor of one of the families writes chats and shows images.

    Raises:
        ModelError: it is of another family.
    """
    for family in FAMILIES.values():
        if isinstance(processor, family.chat.processor):
            return family.chat
    raise ModelError(f"{type(processor).__name__} is the processor of no family in rsqa_pipeline/models/families.py")
