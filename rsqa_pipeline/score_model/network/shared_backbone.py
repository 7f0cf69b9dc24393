"""Hidden states of a Qwen-VL backbone where candidates share sequences and images.

An image is encoded once, however many rows show it. Candidates of one image follow the tokens that they share;
position ids and mask let each candidate see what it would see alone. The last layer computes only the states that
scores are read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rsqa_pipeline.models.branches import branch_positions, tree_mask
from rsqa_pipeline.models.families import family_of

CPU_PATCHES = 2048
"""Patches that a CPU encodes at once, so that intermediate results stay in its cache and in memory already mapped."""


def hidden_states(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    ends: Tensor,
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    image_of_row: Tensor | None = None,
    branches: Tensor | None = None,
) -> Tensor:
    """Last hidden states of the tokens at ``ends``, (candidates, hidden).

    Args:
        input_ids: (rows, tokens).
        attention_mask: (rows, tokens), 1 for real tokens; at least one per row, padding on either side.
        ends: row and token of each candidate, (candidates, 2), without duplicates.
        pixel_values: patches of the batch's distinct images, (patches, channels * time * height * width).
        image_grid_thw: patches of each distinct image over time, height and width, (images, 3).
        image_of_row: which distinct image each row shows, (rows,), -1 for none. By default the images belong to the
            rows that contain image tokens, in order.
        branches: (rows, tokens), 0 for tokens that the row's candidates share, including the image's, 1.. for the
            candidate that a token belongs to. A candidate sees the shared tokens and itself, at the positions that it
            would have alone. By default a row is one candidate.
    """
    grids = image_grid_thw
    embeddings = backbone.get_input_embeddings()(input_ids)
    at_image = input_ids == backbone.config.image_token_id
    deepstack: dict[str, Any] = {}
    is_deepstack = family_of(backbone).deepstack
    if pixel_values is not None and grids is not None:
        pooled, deep = _image_features(backbone, pixel_values, grids)
        shown = list(range(len(grids)) if image_of_row is None else (i for i in image_of_row.tolist() if i >= 0))
        grids = grids[shown]
        features = torch.cat([pooled[i] for i in shown])
        embeddings = embeddings.masked_scatter(at_image[..., None], features.to(embeddings.dtype))
        if is_deepstack:
            layers = [torch.cat([layer[i] for i in shown]) for layer in deep]
            deepstack = {"visual_pos_masks": at_image, "deepstack_visual_embeds": layers}
    # With right padding the causal mask already hides the padding, and without another mask attention is faster.
    mask: Any = None if _padded_on_the_right(attention_mask) else attention_mask
    if branches is not None:
        tree = tree_mask(attention_mask, branches)
        mask = tree["full_attention"] if is_deepstack else tree
    with _last_layer_only_at(backbone, ends, input_ids.shape):
        hidden: Tensor = backbone.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=_positions(backbone, input_ids, attention_mask, at_image, grids, branches),
            use_cache=False,
            **deepstack,
        ).last_hidden_state
    return hidden[ends[:, 0], ends[:, 1]]


@contextmanager
def _last_layer_only_at(backbone: PreTrainedModel, ends: Tensor, shape: torch.Size) -> Iterator[None]:
    """Within it, the last layer's token-wise products, except keys and values, are computed only at ``ends``.

    No other token's last state is read, and these products are most of a layer's work. The states of other tokens are
    not valid. Has no effect with gradient checkpointing, which recomputes activations outside of this context.
    """
    layer = backbone.language_model.layers[-1]
    with ExitStack() as hooks:
        if not (layer.training and layer.gradient_checkpointing):
            rows, tokens = ends[:, 0], ends[:, 1]

            def select_ends(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
                return (inputs[0][rows, tokens],)

            def scatter_into_zeros(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
                return output.new_zeros(*shape, output.shape[-1]).index_put((rows, tokens), output)

            for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
                hooks.callback(module.register_forward_pre_hook(select_ends).remove)
                hooks.callback(module.register_forward_hook(scatter_into_zeros).remove)
        yield


def _image_features(
    backbone: PreTrainedModel, pixel_values: Tensor, grids: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Features of each image, (tokens, hidden); for Qwen3-VL also those for each of its first language layers."""
    patches = grids.prod(dim=1).tolist()
    # in training, all processes must encode equally often
    in_pieces = not (pixel_values.is_cuda or torch.is_grad_enabled())
    sizes = _pieces(patches, CPU_PATCHES) if in_pieces else [len(patches)]
    rows = [sum(patches[start - size : start]) for start, size in zip(accumulate(sizes), sizes, strict=True)]
    found = [
        backbone.get_image_features(pixels, grid)
        for pixels, grid in zip(pixel_values.split(rows), grids.split(sizes), strict=True)
    ]
    pooled = [image for piece in found for image in piece.pooler_output]
    if not family_of(backbone).deepstack:
        return pooled, []
    layers = zip(*(piece.deepstack_features for piece in found), strict=True)
    return pooled, [[image for of_piece in layer for image in of_piece] for layer in layers]


def _pieces(patches: list[int], max_patches: int) -> list[int]:
    """Number of images per piece; a piece has at most ``max_patches`` patches or is a single image."""
    pieces, held = [0], 0
    for count in patches:
        if pieces[-1] and held + count > max_patches:
            pieces.append(0)
            held = 0
        pieces[-1] += 1
        held += count
    return pieces


def _padded_on_the_right(attention_mask: Tensor) -> bool:
    return bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())


def _positions(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    at_image: Tensor,
    grids: Tensor | None,
    branches: Tensor | None,
) -> Tensor:
    """Rotary positions over time, height and width, (3, rows, tokens); each branch continues from the shared part."""
    shared = attention_mask if branches is None else attention_mask * (branches == 0)
    if grids is None:
        positions = (shared.cumsum(-1) - 1).clamp(min=0).expand(3, *shared.shape)
    else:
        positions, _ = backbone.get_rope_index(input_ids, at_image.int(), grids, attention_mask=shared)
    return positions if branches is None else branch_positions(positions, shared, branches)
