"""The score model f(image, text) -> scalar (paper, score model): an image-text backbone and a linear head.

The score is read at the last *attended* token, so that neither the padding side nor the pad token's id
matters (the released code looks for the first pad token and reads inside the prompt where pad = eos).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2VLModel

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.branches import branch_positions, tree_mask
from rsqa_pipeline.models.load import local_folder
from rsqa_pipeline.score_model import checkpoint

Activation = Literal["none", "softplus"]
Part = Literal["head", "vision", "language"]


class ScoreModel(nn.Module):
    """Backbone without language head, linear head without bias, and the output's activation."""

    def __init__(self, backbone: Qwen2VLModel, activation: Activation = "none") -> None:
        super().__init__()
        self.backbone = backbone
        hidden_size = backbone.config.text_config.hidden_size
        self.head = nn.Linear(hidden_size, 1, bias=False)
        # From zero no text is preferred before anything is learned, whatever the seed.
        nn.init.zeros_(self.head.weight)
        self.activation = activation

    @classmethod
    def from_base(cls, path_or_id: str, activation: Activation = "none", revision: str | None = None) -> ScoreModel:
        """A score model with an untrained head on the backbone of a Qwen2-VL checkpoint (folder or hub id).

        Raises:
            ModelError: no such checkpoint, no safetensors, another family, missing or misshapen tensors.
        """
        return cls(checkpoint.read_base(path_or_id, revision), activation)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, revision: str | None = None) -> ScoreModel:
        """Loads what `save_pretrained` wrote, or a checkpoint in the released layout (folder or hub id).

        Raises:
            ModelError: a pickle instead of safetensors, missing, unknown or misshapen tensors, another
                family.
        """
        folder = local_folder(path_or_id, revision)
        config, activation = checkpoint.read_config(folder)
        model = cls(Qwen2VLModel(config), activation)
        tensors = checkpoint.read_tensors(folder)
        checkpoint.check_tensors(folder, expected=model.state_dict(), found=tensors)
        model.load_state_dict(tensors)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and safetensors; the caller saves the processor beside them."""
        checkpoint.write(folder, self.backbone.config, self.activation, self.state_dict())

    def export_released(self, folder: Path) -> None:
        """Writes the released layout: flat config, ``model.*``, ``visual.*``, ``reward_head.weight``.

        Raises:
            ModelError: the activation is none; the released code always applies softplus, so its scores
                would differ.
        """
        if self.activation != "softplus":
            raise ModelError(
                "the released layout always means softplus, and this model has activation 'none': "
                "its scores would differ there; train with activation: softplus, or use save_pretrained"
            )
        checkpoint.write_released(folder, self.backbone.config, self.state_dict())

    def train_only(self, parts: list[Part]) -> None:
        """Freezes everything but the named parts."""
        modules = {
            "head": self.head,
            "vision": self.backbone.visual,
            "language": self.backbone.language_model,
        }
        for name, module in modules.items():
            module.requires_grad_(name in parts)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        image_of_row: Tensor | None = None,
        branches: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """Scores of a batch of candidates, (candidates,), float32; unbounded, or above 0 with softplus.

        Args:
            input_ids: (rows, tokens).
            attention_mask: (rows, tokens), 1 for real tokens; at least one a row, padding on either side.
            pixel_values: patches of the batch's distinct images, (patches, channels * time * height * width).
            image_grid_thw: patches of each distinct image over time, height and width, (images, 3).
            image_of_row: which distinct image each row shows, (rows,), -1 for none. By default the images belong
                to the rows that hold image tokens, in order.
            branches: (rows, tokens), 0 where a token is shared by the row's candidates and holds the image, 1.. for
                the candidate that it belongs to. A candidate sees the shared tokens and itself, at the positions
                that it would have alone. By default a row is one candidate.
            ends: row and token at which each candidate is read, (candidates, 2). By default each row's last attended
                token.
        """
        grids = image_grid_thw
        embeddings = self.backbone.get_input_embeddings()(input_ids)
        at_image = input_ids == self.backbone.config.image_token_id
        if pixel_values is not None and grids is not None:
            features = self.backbone.get_image_features(pixel_values, grids).pooler_output
            if image_of_row is not None:
                shown = [image for image in image_of_row.tolist() if image >= 0]
                features, grids = [features[image] for image in shown], grids[shown]
            embeddings = embeddings.masked_scatter(at_image[..., None], torch.cat(list(features)).to(embeddings.dtype))
        hidden = self.backbone.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask if branches is None else tree_mask(attention_mask, branches),
            position_ids=self._positions(input_ids, attention_mask, at_image, grids, branches),
            use_cache=False,
        ).last_hidden_state
        if ends is None:
            places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
            last = (attention_mask * places).argmax(dim=1)
            ends = torch.stack([torch.arange(len(last), device=last.device), last], dim=1)
        read = hidden[ends[:, 0], ends[:, 1]]
        score = self.head(read.to(self.head.weight.dtype)).squeeze(-1).float()
        return F.softplus(score) if self.activation == "softplus" else score

    def _positions(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        at_image: Tensor,
        grids: Tensor | None,
        branches: Tensor | None,
    ) -> Tensor:
        """Rotary positions over time, height and width, (3, rows, tokens); each branch goes on from the shared part."""
        shared = attention_mask if branches is None else attention_mask * (branches == 0)
        if grids is None:
            positions = (shared.cumsum(-1) - 1).clamp(min=0).expand(3, *shared.shape)
        else:
            types = at_image.int()
            positions, _ = self.backbone.get_rope_index(input_ids, types, grids, attention_mask=shared)
        return positions if branches is None else branch_positions(positions, shared, branches)
