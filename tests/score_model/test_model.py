"""The model reads its score at the last attended token, and its checkpoints round-trip in both layouts."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import QwenVLProcessor, load_vlm, weights_version
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel

Batch = dict[str, torch.Tensor]


@pytest.fixture
def batch(processor: QwenVLProcessor, images: dict[str, str]) -> Batch:
    """Three rows of different length: two with images and one with text only."""
    encoder = ChatEncoder(processor, 192)
    pixels = {name: encoder.pixels(images[name]) for name in ("red", "blue")}
    texts = [("a red field", "red"), ("a blue field seen from above", "blue"), ("yes", None)]
    rows = [CandidateRow(encoder.tokens([], text, image is not None), image) for text, image in texts]
    return encoder.batch(rows, pixels)


@torch.inference_mode()
def scores(model: ScoreModel, batch: Batch) -> torch.Tensor:
    return model(**batch)


def padded(batch: Batch, left: int, right: int, pad: int) -> Batch:
    """The batch with more padding on both sides, under another pad id; read where the mask ends."""
    ids = torch.where(batch["attention_mask"].bool(), batch["input_ids"], torch.tensor(pad))
    return {name: tensor for name, tensor in batch.items() if name != "ends"} | {
        "input_ids": torch.nn.functional.pad(ids, (left, right), value=pad),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (left, right)),
    }


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 7), (3, 4)])
def test_padding_side_and_pad_id_do_not_matter(
    model: ScoreModel, processor: QwenVLProcessor, batch: Batch, left: int, right: int
) -> None:
    eos = processor.tokenizer.eos_token_id  # this id also ends turns inside the prompt
    again = scores(model, padded(batch, left, right, pad=eos))
    torch.testing.assert_close(again, scores(model, batch), atol=1e-4, rtol=0)
    assert scores(model, batch).unique().numel() == 3


def test_text_without_image_does_not_depend_on_the_padding_side(model: ScoreModel, processor: QwenVLProcessor) -> None:
    encoder = ChatEncoder(processor, 192)
    batch = encoder.batch([CandidateRow(encoder.tokens([], text, False), None) for text in ("yes", "a red field")], {})
    torch.testing.assert_close(scores(model, padded(batch, 6, 0, pad=0)), scores(model, batch), atol=1e-4, rtol=0)


def test_a_shared_image_gives_the_same_scores_as_a_repeated_one(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    encoder = ChatEncoder(processor, 192)
    texts = ("a red field", "a blue field seen from above")
    red = encoder.pixels(images["red"])
    shared = encoder.batch([CandidateRow(encoder.tokens([], text, True), "red") for text in texts], {"red": red})
    rows = [CandidateRow(encoder.tokens([], text, True), place) for place, text in enumerate(texts)]
    repeated = encoder.batch(rows, {0: red, 1: replace(red)})
    del repeated["image_of_row"]  # images then belong to the rows, in order
    assert len(repeated["pixel_values"]) == 2 * len(shared["pixel_values"])
    torch.testing.assert_close(scores(model, shared), scores(model, repeated), atol=1e-5, rtol=0)


def test_an_untrained_head_prefers_nothing(base_models: Path, batch: Batch) -> None:
    assert scores(ScoreModel.from_base(str(base_models / "vlm")), batch).tolist() == [0, 0, 0]


def test_softplus_is_the_raw_score_through_softplus(model: ScoreModel, batch: Batch) -> None:
    raw = scores(model, batch)
    model.activation = "softplus"
    torch.testing.assert_close(scores(model, batch), torch.log1p(raw.exp()))


@pytest.mark.parametrize("parts", [["head"], ["vision", "head"], ["language", "head"]])
def test_only_the_named_parts_train(model: ScoreModel, batch: Batch, parts: list[str]) -> None:
    model.train_only(parts)  # type: ignore[arg-type]
    model(**batch).sum().backward()
    moved = {
        "vision": model.backbone.visual,
        "language": model.backbone.language_model,
        "head": model.head,
    }
    for name, module in moved.items():
        assert any(p.grad is not None for p in module.parameters()) == (name in parts), name


@pytest.mark.parametrize("activation", ["none", "softplus"])
def test_own_layout_round_trips(model: ScoreModel, batch: Batch, tmp_path: Path, activation: str) -> None:
    model.activation = activation  # type: ignore[assignment]
    model.save_pretrained(tmp_path / "a")
    again = ScoreModel.from_pretrained(tmp_path / "a")
    assert torch.equal(scores(again, batch), scores(model, batch))
    again.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_released_layout_round_trips(model: ScoreModel, batch: Batch, tmp_path: Path) -> None:
    model.activation = "softplus"
    model.export_released(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["architectures"] == ["Qwen2Reward"]
    assert settings["hidden_size"] == 128 and "text_config" not in settings
    names = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"model", "visual", "reward_head"}
    assert torch.equal(scores(ScoreModel.from_pretrained(tmp_path), batch), scores(model, batch))


def test_transformers_refuses_our_layout(model: ScoreModel, processor: QwenVLProcessor, tmp_path: Path) -> None:
    """Otherwise it would load the backbone alone, without the head, and only warn."""
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for loader in (AutoModel, AutoModelForImageTextToText, AutoConfig):
        with pytest.raises(ValueError, match="rsqa_score_qwen2_vl"):
            loader.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a score model, not a base model"):
        ScoreModel.from_base(str(tmp_path))
    with pytest.raises(ModelError, match="rsqa_score_qwen2_vl"):
        load_vlm(tmp_path, Compute(device="cpu"))
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        assert isinstance(read_processor(tmp_path), QwenVLProcessor)
        assert warned == []
    finally:
        logging.getLogger("transformers").removeHandler(handler)


def test_folders_of_older_versions_still_load(model: ScoreModel, batch: Batch, tmp_path: Path) -> None:
    """There, ``model_type`` is the backbone's own."""
    model.save_pretrained(tmp_path)
    version, file = weights_version(tmp_path), tmp_path / "config.json"
    settings = json.loads(file.read_text())
    assert settings.pop("backbone_model_type") == "qwen2_vl"
    file.write_text(json.dumps(settings | {"model_type": "qwen2_vl"}))
    again = ScoreModel.from_pretrained(tmp_path)
    assert torch.equal(scores(again, batch), scores(model, batch))
    again.save_pretrained(tmp_path / "new")
    assert weights_version(tmp_path / "new") == version
    new = ScoreModel.from_pretrained(tmp_path / "new")
    assert new.backbone.config.model_type == "qwen2_vl" and not hasattr(new.backbone.config, "backbone_model_type")


def test_a_raw_score_model_is_not_exported_as_softplus(model: ScoreModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="softplus"):
        model.export_released(tmp_path)


def test_released_checkpoint_reproduces_the_released_codes_scores(shared_data: Path) -> None:
    released = shared_data / "parity" / "scorers_checkpoint"
    known = {k: torch.tensor(v) for k, v in np.load(released / "inputs_and_expected.npz").items()}
    model = ScoreModel.from_pretrained(released)
    assert model.activation == "softplus"
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    found = scores(model, {name: known[name] for name in names})
    torch.testing.assert_close(found, known["expected_scores"], atol=1e-4, rtol=0)
    loss = -torch.nn.functional.logsigmoid(found[[0, 2]] - found[[1, 3]]).mean()
    assert loss.item() == pytest.approx(known["expected_pairwise_loss"].item(), abs=1e-4)
    text = {"input_ids": known["text_input_ids"], "attention_mask": known["text_attention_mask"]}
    torch.testing.assert_close(scores(model, text), known["text_expected_scores"], atol=1e-4, rtol=0)


def test_released_checkpoint_is_exported_tensor_for_tensor(shared_data: Path, tmp_path: Path) -> None:
    released = shared_data / "parity" / "scorers_checkpoint"
    ScoreModel.from_pretrained(released).export_released(tmp_path)
    before, after = load_file(released / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_missing_unknown_and_misshapen_tensors_are_all_named(model: ScoreModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["backbone.language_model.norm.weight"]
    tensors |= {"head.weight": torch.zeros(1, 7), "head.bias": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as error:
        ScoreModel.from_pretrained(tmp_path)
    for part in ("missing: backbone.language_model.norm.weight", "unknown: head.bias", "head.weight [1, 7]"):
        assert part in str(error.value)


def test_a_pickle_is_refused(model: ScoreModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights \(pytorch_model.bin\)"):
        ScoreModel.from_pretrained(tmp_path)


def test_broken_files_have_distinct_errors(model: ScoreModel, base_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        ScoreModel.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ModelError, match="not a score model"):
        ScoreModel.from_pretrained(base_models / "vlm")
    model.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="safetensors"):
        ScoreModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        ScoreModel.from_pretrained(tmp_path)


def test_candidates_that_share_a_sequence_score_as_if_alone(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    encoder = ChatEncoder(processor, 192)
    asked = [Message(role="user", content="Is the field red or blue?")]
    system = [Message(role="system", content="Be brief."), *asked]
    pixels = {name: encoder.pixels(images[name]) for name in ("red", "blue")}
    rows = [
        CandidateRow(encoder.tokens(context, text, image is not None), image)
        for context, text, image in (
            ([], "a red field", "red"),
            ([], "a red field seen from above", "red"),
            (asked, "yes", "blue"),
            ([], "a blue field", "red"),
            (asked, "no", "blue"),
            (asked, "yes", None),
            (system, "yes", "blue"),  # differs from the other blue rows before the image
            ([], "", "red"),
        )
    ]
    together = encoder.batch(rows, pixels)
    alone = torch.cat([scores(model, encoder.batch([row], pixels)) for row in rows])
    assert len(together["input_ids"]) < len(rows) and "branches" in together
    torch.testing.assert_close(scores(model, together), alone, atol=1e-4, rtol=0)
    assert alone.unique().numel() == len(rows)


def test_a_candidate_gives_no_gradient_to_a_longer_neighbour_in_its_sequence(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    encoder = ChatEncoder(processor, 192)
    rows = [CandidateRow(encoder.tokens([], text, True), "red") for text in ("a red field", "white seen from above")]
    batch = encoder.batch(rows, {"red": encoder.pixels(images["red"])})
    model.train_only(["language"])
    model(**batch)[0].backward()
    used = model.backbone.get_input_embeddings().weight.grad
    white = [token for token in rows[1].tokens if token not in rows[0].tokens]
    assert white and used is not None and not used[white].any()
