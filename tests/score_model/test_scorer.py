"""A score depends only on its own image and text; what cannot be scored is missing, with a reason."""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.models.conversation import as_chat, encode
from rsqa_pipeline.models.load import QwenVLProcessor, weights_version
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.inputs.sequences import Pixels
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer

QUESTION = [Message(role="user", content="Is the field red or blue?")]
LONG = [Message(role="user", content="Is the field red or blue? " * 20)]


def scorer_of(model: ScoreModel, processor: QwenVLProcessor, batch_tokens: int = 512, max_length: int = 192) -> Scorer:
    return Scorer(model, processor, max_length, "test", batch_tokens)


@pytest.fixture
def scorer(model: ScoreModel, processor: QwenVLProcessor) -> Scorer:
    return scorer_of(model, processor)


@pytest.fixture
def groups(images: dict[str, str]) -> list[ScoringGroup]:
    return [
        ScoringGroup(images["red"], [], ["a red field", "a blue field seen from above", "red " * 30]),
        ScoringGroup(images["blue"], QUESTION, ["blue", "red", "it is blue, seen from above"]),
        ScoringGroup(images["red"], QUESTION, ["red"]),
        ScoringGroup(Image.open(images["white"]), [], ["a white field"]),
        ScoringGroup(None, QUESTION, ["yes", "no"]),
        ScoringGroup(images["green"], [], []),
    ]


def flat(scores: list[list[float | None]]) -> list[float]:
    return [score for group in scores for score in group if score is not None]


@torch.inference_mode()
def one_by_one(
    scorer: Scorer, processor: QwenVLProcessor, groups: list[ScoringGroup], side: str = "right"
) -> list[float]:
    """Scores each text separately with transformers' own model: own image, no shared sequence, padded to 192 tokens."""
    scores = []
    for group in groups:
        image = Image.open(group.image) if isinstance(group.image, str) else group.image
        for text in group.candidates:
            chat = as_chat([*group.context, Message(role="assistant", content=text)])
            inputs = encode(processor, [chat], [image], 192)
            padding = 192 - inputs["input_ids"].shape[1]
            sides = (padding, 0) if side == "left" else (0, padding)
            for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                inputs[name] = torch.nn.functional.pad(inputs[name], sides)
            hidden = scorer.model.backbone(**inputs).last_hidden_state
            last = int(inputs["attention_mask"][0].nonzero().max())
            scores.append(scorer.model.head(hidden[0, last]).item())
    return scores


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 300, 100_000])
def test_scores_equal_those_of_one_text_at_a_time(
    model: ScoreModel, processor: QwenVLProcessor, groups: list[ScoringGroup], batch_tokens: int, side: str
) -> None:
    scorer = scorer_of(model, processor, batch_tokens)
    found = scorer.score(groups)
    assert [len(of_group) for of_group in found] == [3, 3, 1, 1, 2, 0]
    assert flat(found) == pytest.approx(one_by_one(scorer, processor, groups, side), abs=1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_grouping_and_batches_do_not_matter(
    model: ScoreModel, processor: QwenVLProcessor, groups: list[ScoringGroup], data: st.DataObject
) -> None:
    texts = [(group, text) for group in groups for text in group.candidates]
    expected = dict(zip(texts_of(groups), flat(scorer_of(model, processor, 1).score(groups)), strict=True))
    parts: dict[tuple[int, int], list[tuple[ScoringGroup, str]]] = {}
    for group, text in data.draw(st.permutations(texts)):  # a group's texts are split over up to three groups
        parts.setdefault((id(group), data.draw(st.integers(0, 2))), []).append((group, text))
    regrouped = [ScoringGroup(p[0][0].image, p[0][0].context, [text for _, text in p]) for p in parts.values()]
    found = scorer_of(model, processor, data.draw(st.sampled_from([1, 90, 200, 700, 100_000]))).score(regrouped)
    for key, score in zip(texts_of(regrouped), flat(found), strict=True):
        assert score == pytest.approx(expected[key], abs=1e-4)


def texts_of(groups: list[ScoringGroup]) -> list[tuple[object, str, str]]:
    return [(id(g.image), str(g.context), text) for g in groups for text in g.candidates]


def test_the_same_call_gives_the_same_bits(scorer: Scorer, groups: list[ScoringGroup]) -> None:
    assert scorer.score(groups * 5) == scorer.score(groups * 5)


def test_image_and_context_matter(scorer: Scorer, images: dict[str, str]) -> None:
    (red,), (blue,), (asked,), (none,) = scorer.score(
        [
            ScoringGroup(images["red"], [], ["a field"]),
            ScoringGroup(images["blue"], [], ["a field"]),
            ScoringGroup(images["red"], QUESTION, ["a field"]),
            ScoringGroup(None, [], ["a field"]),
        ]
    )
    assert len({red, blue, asked, none}) == 4


def test_an_image_is_opened_and_encoded_once(
    scorer: Scorer, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode_images = scorer.model.backbone.get_image_features
    monkeypatch.setattr(
        scorer.model.backbone,
        "get_image_features",
        lambda pixels, grid, **kwargs: (seen.append(len(grid)), encode_images(pixels, grid, **kwargs))[1],
    )
    fields = [f"field {n}" for n in range(6)]
    scorer.score([ScoringGroup(images["red"], [], fields), ScoringGroup(images["red"], QUESTION, fields)])
    assert seen == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority per thread")
def test_threads_that_open_images_have_a_lower_priority_than_the_model(
    scorer: Scorer, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, found = scorer._encoder.pixels, set()

    def record_priority(image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        found.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return pixels(image, max_tokens)

    monkeypatch.setattr(scorer._encoder, "pixels", record_priority)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    scorer.score([ScoringGroup(image, [], ["a field"]) for image in images.values()])
    assert found and min(found) > before == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_an_unusable_image_affects_only_its_own_group(
    model: ScoreModel, processor: QwenVLProcessor, groups: list[ScoringGroup], images: dict[str, str], tmp_path: Path
) -> None:
    scorer = scorer_of(model, processor, 100)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    (tmp_path / "half.png").write_bytes(Path(images["red"]).read_bytes()[:200])
    Image.new("RGB", (900, 3)).save(tmp_path / "line.png")
    bad = [
        ScoringGroup(str(tmp_path / "bad.png"), [], ["a", "b"]),
        ScoringGroup(str(tmp_path / "none.png"), [], ["a"]),
        ScoringGroup(Image.open(tmp_path / "half.png"), [], ["a"]),
        ScoringGroup(str(tmp_path / "line.png"), [], ["a"]),
        ScoringGroup(images["red"], [Message(role="system", content="Be brief.")], ["a"]),
    ]
    mixed = scorer.score_or_reason([*bad[:2], *groups, *bad[2:]])
    faults = [mixed[0], mixed[1], *mixed[-3:]]
    assert [score.reason for of_group in faults for score in of_group] == [
        *["undecodable"] * 2,
        "missing_image",
        "undecodable",
        "refused_shape",
        "no_user_turn",
    ]
    assert all(score.value is None and score.detail for of_group in faults for score in of_group)
    values = [[score.value for score in of_group] for of_group in mixed[2:-3]]
    assert flat(values) == pytest.approx(flat(scorer.score(groups)), abs=1e-4)


def test_a_score_that_is_not_finite_is_missing(scorer: Scorer, groups: list[ScoringGroup]) -> None:
    with torch.no_grad():
        scorer.model.head.weight.fill_(torch.nan)
    scores = scorer.score_or_reason(groups)
    assert {(score.value, score.reason) for of_group in scores for score in of_group} == {(None, "not_finite")}


def test_a_long_text_is_cut_and_has_a_note(scorer: Scorer, images: dict[str, str]) -> None:
    texts = ["red " * 200 + "field", "red " * 200 + "blue", "red"]
    (scores,) = scorer.score_or_reason([ScoringGroup(images["red"], [], texts)])
    assert [score.note for score in scores] == ["text_cut", "text_cut", None]
    assert scores[0].value == pytest.approx(scores[1].value, abs=1e-4)
    assert scorer.truncated == 2
    scorer.score([ScoringGroup(images["red"], [], ["red"])])
    assert scorer.truncated == 2


def large_image(folder: Path) -> str:
    """A 160 x 160 image, 100 tokens with the processor below."""
    path = folder / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def wide_processor(base_models: Path) -> QwenVLProcessor:
    """A processor that does not resize images up to 160 x 160."""
    processor = QwenVLProcessor.from_pretrained(base_models / "vlm")
    processor.image_processor.size = {"shortest_edge": 16**2, "longest_edge": 160**2}
    return processor


def test_an_image_that_leaves_the_text_no_room_is_made_smaller(
    model: ScoreModel, wide_processor: QwenVLProcessor, images: dict[str, str], tmp_path: Path
) -> None:
    image = large_image(tmp_path)
    whole = scorer_of(model, wide_processor, max_length=400).score_or_reason([ScoringGroup(image, [], ["a red field"])])
    (row,) = encoder_for(wide_processor, 400).rows([], ["a red field"], image)
    tight = scorer_of(model, wide_processor, max_length=row.prompt + 60)
    group = ScoringGroup(image, [], ["a red field", "a blue field"])
    (scores,), alone = (
        tight.score_or_reason([group]),
        [tight.score([ScoringGroup(image, [], [text])])[0][0] for text in group.candidates],
    )
    assert whole[0][0].note is None
    assert [score.note for score in scores] == ["image_downscaled"] * 2
    assert [score.value for score in scores] == pytest.approx(alone, abs=1e-4)
    assert scores[0].value != pytest.approx(scores[1].value, abs=1e-4)
    ((cut,), (small,)) = tight.score_or_reason(
        [ScoringGroup(image, [], ["red " * 100]), ScoringGroup(images["red"], [], ["a red field"])]
    )
    assert (cut.note, small.note) == ("text_cut, image_downscaled", None)


def test_a_context_that_fills_the_models_context_is_reported(scorer: Scorer, images: dict[str, str]) -> None:
    turns = [Message(role=role, content="red?") for _ in range(100) for role in ("user", "assistant")]
    groups = [
        ScoringGroup(images["red"], turns, ["a", "b"]),
        ScoringGroup(None, turns, ["a"]),
        ScoringGroup(images["red"], turns[:2], ["a", "b"]),
    ]
    conversation, text_alone, short = scorer.score_or_reason(groups)
    assert [score.reason for score in [*conversation, *text_alone]] == ["context_too_long"] * 3
    assert all(score.value is not None and score.note is None for score in short)


def test_load_gives_the_same_scores_and_the_weights_hash(
    scorer: Scorer, processor: QwenVLProcessor, groups: list[ScoringGroup], tmp_path: Path
) -> None:
    scorer.model.save_pretrained(tmp_path)
    processor.tokenizer.model_max_length = 192
    processor.save_pretrained(tmp_path)
    loaded = Scorer.load(tmp_path, Compute(device="cpu", batch_tokens=77))
    assert loaded.version == weights_version(tmp_path) and loaded.batch_tokens == 77
    assert flat(loaded.score(groups)) == pytest.approx(flat(scorer.score(groups)), abs=1e-4)


def test_scoring_restores_the_training_mode(scorer: Scorer, groups: list[ScoringGroup]) -> None:
    scorer.model.train()
    scorer.score(groups)
    assert scorer.model.training


def test_many_groups_score_the_same_in_any_order(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    """More groups than the sorting window and the look-ahead hold."""
    rng = random.Random(3)
    names = list(images)
    groups = [
        ScoringGroup(Image.open(images[rng.choice(names)]), rng.choice([[], QUESTION]), ["red " * rng.randint(1, 20)])
        for _ in range(90)
    ]
    scorer = scorer_of(model, processor, 150)
    found = flat(scorer.score(groups))
    order = rng.sample(range(90), 90)
    shuffled = flat(scorer.score([groups[index] for index in order]))
    assert [shuffled[order.index(index)] for index in range(90)] == pytest.approx(found, abs=1e-4)
