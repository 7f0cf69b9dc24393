"""Where each family of VLMs keeps its parts. The trainers ask here, so that a new family is one more entry."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from rsqa_pipeline.errors import ModelError

_LINEAR_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@dataclass(frozen=True)
class Family:
    """Names of submodules of ``model.model``, for an image-text-to-text ``model`` of transformers.

    Example: Qwen2-VL keeps its connector inside the tower, LLaVA beside it.
    """

    vision: str
    connector: tuple[str, ...]
    """Modules that turn image features into the language model's embeddings; in some families part of the tower."""
    language: str

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


FAMILIES = {
    "qwen2_vl": Family("visual", ("visual.merger",), "language_model"),
    "qwen2_5_vl": Family("visual", ("visual.merger",), "language_model"),
    "qwen3_vl": Family("visual", ("visual.merger", "visual.deepstack_merger_list"), "language_model"),
    "llava": Family("vision_tower", ("multi_modal_projector",), "language_model"),
    "idefics3": Family("vision_model", ("connector",), "text_model"),
}


def family_of(model: PreTrainedModel) -> Family:
    """The parts of a model.

    Raises:
        ModelError: the family is unknown.
    """
    found = FAMILIES.get(model.config.model_type)
    if found is None:
        raise ModelError(
            f"model type {model.config.model_type!r} is unknown; known: {', '.join(FAMILIES)}. Add the names of its "
            "vision tower, connector and language model to rsqa_pipeline/models/families.py"
        )
    return found
