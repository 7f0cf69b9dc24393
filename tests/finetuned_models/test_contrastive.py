"""Both losses by hand and against transformers, and a step in chunks against the step of the whole batch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rsqa_pipeline.finetuned_models.captioned_images import CaptionedImages
from rsqa_pipeline.finetuned_models.contrastive import ContrastiveStep, PairBatch, contrastive_loss, sigmoid_loss
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.models.load import Clip, base_model, load_clip
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.training.distributed import ProcessGroup

ALONE = ProcessGroup(torch.device("cpu"))


def test_loss_without_shared_images_is_the_usual_loss() -> None:
    similarity = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    loss, accuracy = contrastive_loss(similarity, torch.eye(2, dtype=torch.bool))
    rows = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    columns = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert loss.item() == pytest.approx((rows + columns) / 2)
    assert accuracy.item() == 1.0


def test_samples_of_one_image_are_not_negatives_of_each_other() -> None:
    similarity = torch.tensor([[2.0, 9.0, 0.0], [9.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss, accuracy = contrastive_loss(similarity, same)
    # 0 and 1 are each contrasted with 2 alone, 2 with both
    expected = (2 * math.log(1 + math.exp(-2)) + math.log(1 + 2 * math.exp(-1))) / 3
    assert loss.item() == pytest.approx(expected)
    assert accuracy.item() == 1.0


def test_a_batch_of_one_image_has_no_loss_and_no_gradient() -> None:
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, _ = contrastive_loss(similarity, torch.ones(3, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert similarity.grad is not None and torch.equal(similarity.grad, torch.zeros(3, 3))


def test_the_sigmoid_loss_leaves_out_pairs_that_are_neither_right_nor_wrong() -> None:
    logits = torch.tensor([[2.0, 9.0, -1.0], [9.0, 3.0, 0.5], [0.0, -2.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    loss, accuracy = sigmoid_loss(logits, same)
    right = sum(math.log(1 + math.exp(-x)) for x in (2.0, 3.0, 1.0))
    wrong = sum(math.log(1 + math.exp(x)) for x in (-1.0, 0.5, 0.0, -2.0))
    assert loss.item() == pytest.approx((right + wrong) / 3)
    assert accuracy.item() == 1.0


def loaded(inputs: dict[str, Path], settings: Profile, scratch: Path, frozen: bool) -> tuple[Clip, PairBatch]:
    """A model, and the twelve captions of the corpus as one batch."""
    clip = load_clip(base_model(inputs["base_models"], "clip"), settings.compute)
    clip.model.vision_model.requires_grad_(not frozen)
    data = CaptionedImages(subset_samples(inputs, "all", "image_text_pairs", "caption"), clip, scratch, frozen, ALONE)
    return clip, data.batch(range(len(data)))


def gradients(clip: Clip, batch: PairBatch, chunk_size: int | None) -> tuple[float, dict[str, torch.Tensor]]:
    clip.model.zero_grad()
    loss, _ = ContrastiveStep(clip.model, ALONE, chunk_size).backward(batch, 2, [5])
    found = {name: p.grad.clone() for name, p in clip.model.named_parameters() if p.grad is not None}
    return loss.item(), found


def test_a_siglips_loss_is_that_of_transformers(
    siglip_corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    clip, batch = loaded(siglip_corpus, settings, tmp_path, frozen=False)
    alone = PairBatch(batch.images, batch.tokens, torch.eye(12, dtype=torch.bool))
    loss, found = gradients(clip, alone, None)
    clip.model.zero_grad()
    expected = clip.model(pixel_values=batch.images, **batch.tokens, return_loss=True).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in clip.model.named_parameters():
        torch.testing.assert_close(2 * found[name], parameter.grad, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 5, 12])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("inputs", ["corpus", "siglip_corpus"])
def test_a_step_in_chunks_has_the_gradients_of_the_whole_batch(
    request: pytest.FixtureRequest, settings: Profile, tmp_path: Path, inputs: str, frozen: bool, chunk_size: int
) -> None:
    clip, batch = loaded(request.getfixturevalue(inputs), settings, tmp_path, frozen)
    loss, expected = gradients(clip, batch, None)
    chunked_loss, found = gradients(clip, batch, chunk_size)
    assert chunked_loss == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys() >= {"logit_scale", "text_model.final_layer_norm.weight"}
    assert any(name.startswith("vision_model.") for name in found) is not frozen
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2


def test_a_chunk_drops_out_the_same_when_it_is_embedded_again(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    clip, batch = loaded(corpus, settings, tmp_path, frozen=False)
    for module in clip.model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    clip.model.train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    losses = {size: gradients(clip, batch, size) for size in (None, 12, 4)}
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's numbers are drawn
    assert losses[None][0] == losses[12][0] != losses[4][0]
    step = ContrastiveStep(clip.model, ALONE)
    vectors = [step._embed(chunk, [5, number]) for number, chunk in enumerate(batch.chunks(4))]
    seen, said = (torch.cat(side) for side in zip(*vectors, strict=True))
    clip.model.zero_grad()
    (contrastive_loss(step.logits(seen, said), batch.same)[0] / 2).backward()
    for name, parameter in clip.model.named_parameters():
        torch.testing.assert_close(losses[4][1][name], parameter.grad, atol=1e-5, rtol=1e-5, msg=name)
    clip.model.eval()
    assert gradients(clip, batch, None)[0] != losses[None][0]


def held_bytes(clip: Clip, batch: PairBatch, chunk_size: int | None) -> int:
    """Most bytes that the graphs of a step hold at once, weights aside."""
    weights = {parameter.data_ptr() for parameter in clip.model.parameters()}
    held = most = 0

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, most
            self.tensor, self.bytes = tensor, tensor.nbytes * (tensor.data_ptr() not in weights)
            held += self.bytes
            most = max(most, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda kept: kept.tensor):
        gradients(clip, batch, chunk_size)
    return most


def test_chunks_hold_a_part_of_the_activations(corpus: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    clip, batch = loaded(corpus, settings, tmp_path, frozen=False)
    whole, chunked = held_bytes(clip, batch, None), held_bytes(clip, batch, 2)
    assert chunked < 0.2 * whole


def test_vectors_have_length_one(siglip_corpus: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    clip, batch = loaded(siglip_corpus, settings, tmp_path, frozen=True)
    seen, said = ContrastiveStep(clip.model, ALONE)._embed(batch, [0])
    torch.testing.assert_close(seen, F.normalize(seen, dim=-1))
    torch.testing.assert_close(said, F.normalize(said, dim=-1))
