"""The score model f(image, text) -> scalar (paper, score model): an image-text backbone and a linear head.

The score is read at the last *attended* token, so that neither the padding side nor the pad token's id
matters (the released code looks for the first pad token and reads inside the prompt where pad = eos).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.families import family_of
from rsqa_pipeline.models.image_attention import attend_to_images_together
from rsqa_pipeline.models.load import local_folder
from rsqa_pipeline.models.model_folder import check_folder, check_size, reading
from rsqa_pipeline.models.patch_product import use_patch_products
from rsqa_pipeline.profile.score_model import Lora
from rsqa_pipeline.score_model.additions import Additions
from rsqa_pipeline.score_model.network import checkpoint, shared_backbone
from rsqa_pipeline.score_model.network.adapters import add_adapters

Activation = Literal["none", "softplus"]
Part = Literal["head", "vision", "language"]


class ScoreModel(nn.Module):
    """Backbone without language head, linear head without bias, and the output's activation."""

    def __init__(self, backbone: PreTrainedModel, activation: Activation = "none") -> None:
        super().__init__()
        self.backbone = backbone
        use_patch_products(backbone)
        self.shares_sequences = family_of(backbone).chat.grid
        """Whether candidates can share sequences and images; otherwise each has its own row and its own image."""
        if self.shares_sequences:
            attend_to_images_together(backbone)
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, 1, bias=False)
        # With zero weights no text is preferred before training, for any seed.
        nn.init.zeros_(self.head.weight)
        self.activation = activation
        self.additions = Additions()
        """What was fitted after the training; not part of the weights."""

    @classmethod
    def from_base(cls, path_or_id: str, activation: Activation = "none", revision: str | None = None) -> ScoreModel:
        """A score model with an untrained head on the backbone of an image-text checkpoint (folder or hub id).

        Raises:
            ModelError: no such checkpoint, no safetensors, an unsupported family, missing or misshapen tensors.
        """
        return cls(checkpoint.read_base(path_or_id, revision), activation)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, revision: str | None = None) -> ScoreModel:
        """Loads what `save_pretrained` wrote, or a checkpoint in the released layout (folder or hub id).

        Raises:
            ModelError: a pickle instead of safetensors; missing, unknown or misshapen tensors; an unsupported
                family.
        """
        folder = local_folder(path_or_id, revision)
        config, activation = checkpoint.read_config(folder)
        stored = check_folder(folder)
        with reading(folder, "cannot be built from its config.json"):
            with torch.device("meta"):
                check_size(folder, AutoModel.from_config(config), stored)
            model = cls(AutoModel.from_config(config, dtype=torch.float32), activation)
        tensors = checkpoint.read_tensors(folder)
        checkpoint.check_tensors(folder, expected=model.state_dict(), found=tensors)
        model.load_state_dict(tensors)
        model.additions = Additions.read(folder, model.head.in_features)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and safetensors; the caller saves the processor beside them."""
        checkpoint.write(folder, self.backbone.config, self.activation, self.state_dict())
        self.additions.write(folder)

    def export_released(self, folder: Path) -> None:
        """Writes the released layout: flat config, ``model.*``, ``visual.*``, ``reward_head.weight``.

        Bootstrap heads are left out; the scores do not depend on them.

        Raises:
            ModelError: the activation is none; the released code always applies softplus, so its scores
                would differ. Or the backbone is not a Qwen2-VL.
        """
        if self.activation != "softplus":
            raise ModelError(
                "the released layout always means softplus, but this model has activation 'none', "
                "so its scores would differ; train with activation: softplus, or use save_pretrained"
            )
        if self.backbone.config.model_type != "qwen2_vl":
            raise ModelError(
                f"the released layout supports Qwen2-VL only, but this backbone is {self.backbone.config.model_type}; "
                "use save_pretrained"
            )
        checkpoint.write_released(folder, self.backbone.config, self.state_dict())

    def train_only(self, parts: Sequence[Part], lora: Lora | None = None, seed: int = 0) -> list[LoraModel]:
        """Freezes everything except the named parts. With ``lora``, adapters in their linear layers train instead.

        Returns:
            The adapters, for `merge_adapters`, initialized from ``seed``. The head has none.
        """
        language = self.backbone.get_decoder()
        modules = {
            "head": [self.head],
            "language": [language],
            "vision": [part for part in self.backbone.children() if part is not language],
        }
        for name, members in modules.items():
            for module in members:
                module.requires_grad_(name in parts and (lora is None or name == "head"))
        if lora is None:
            return []
        adapted = [module for name in ("language", "vision") if name in parts for module in modules[name]]
        return add_adapters(adapted, lora, seed)

    def recompute_activations(self) -> None:
        """Gradient checkpointing: recomputes activations in the backward pass instead of keeping them."""
        self.backbone.activation_checkpointing_enable()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """Scores of a batch of candidates, (candidates,), float32; unbounded, or above 0 with softplus.

        The arguments are those of `pooled`. Scores are not corrected for length; see `Scorer`.
        """
        return self.read_scores(self.pooled(input_ids, attention_mask, ends, **inputs))

    def pooled(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        ends: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """The last hidden state that each candidate's score is read from, (candidates, hidden).

        Args:
            input_ids: (rows, tokens).
            attention_mask: (rows, tokens), 1 for real tokens; at least one per row, padding on either side.
            ends: row and token at which each candidate's score is read, (candidates, 2). By default each row's last
                attended token.
            inputs: images and their arguments, see `shared_backbone.hidden_states`; for backbones that share nothing,
                the backbone's own arguments.
        """
        if ends is None:
            positions = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
            last = (attention_mask * positions).argmax(dim=1)
            ends = torch.stack([torch.arange(len(last), device=last.device), last], dim=1)
        if self.shares_sequences:
            return shared_backbone.hidden_states(self.backbone, input_ids, attention_mask, ends, **inputs)
        hidden: Tensor = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs
        ).last_hidden_state
        return hidden[ends[:, 0], ends[:, 1]]

    def read_scores(self, pooled: Tensor) -> Tensor:
        """Scores of `pooled` states, (candidates,), float32."""
        with torch.autocast(pooled.device.type, enabled=False):  # in bfloat16, scores that differ by 0.01 could tie
            score = self.head(pooled.to(self.head.weight.dtype)).squeeze(-1).float()
        return F.softplus(score) if self.activation == "softplus" else score

    def read_spreads(self, pooled: Tensor) -> Tensor | None:
        """Standard deviation of the bootstrap heads' scores, (candidates,), float32; None without such heads."""
        if self.additions.heads is None:
            return None
        with torch.autocast(pooled.device.type, enabled=False):
            scores = pooled.float() @ self.additions.heads.to(pooled.device).T
        return (F.softplus(scores) if self.activation == "softplus" else scores).std(dim=1)
