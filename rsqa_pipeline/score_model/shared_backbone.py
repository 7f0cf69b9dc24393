"""Hidden states of a Qwen-VL backbone where candidates share sequences and images.

An image is encoded once, however many rows show it; candidates of one image stand behind what they share, at the
positions and with the sight that each would have alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2VLModel

from rsqa_pipeline.models.branches import branch_positions, tree_mask


def hidden_states(
    backbone: Qwen2VLModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    pixel_values: Tensor | None,
    grids: Tensor | None,
    image_of_row: Tensor | None,
    branches: Tensor | None,
) -> Tensor:
    """Last hidden states, (rows, tokens, hidden). Arguments as of `ScoreModel.forward`."""
    embeddings = backbone.get_input_embeddings()(input_ids)
    at_image = input_ids == backbone.config.image_token_id
    if pixel_values is not None and grids is not None:
        features = backbone.get_image_features(pixel_values, grids).pooler_output
        shown = list(range(len(grids)) if image_of_row is None else (i for i in image_of_row.tolist() if i >= 0))
        if shown:
            seen, grids = torch.cat([features[image] for image in shown]), grids[shown]
            embeddings = embeddings.masked_scatter(at_image[..., None], seen.to(embeddings.dtype))
        else:  # the vision tower takes part in every pass, as other processes wait for its gradients
            embeddings, grids = embeddings + 0 * torch.cat(features).sum(), None
    return backbone.language_model(
        inputs_embeds=embeddings,
        attention_mask=attention_mask if branches is None else tree_mask(attention_mask, branches),
        position_ids=_positions(backbone, input_ids, attention_mask, at_image, grids, branches),
        use_cache=False,
    ).last_hidden_state


def _positions(
    backbone: Qwen2VLModel,
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
        positions, _ = backbone.get_rope_index(input_ids, at_image.int(), grids, attention_mask=shared)
    return positions if branches is None else branch_positions(positions, shared, branches)
