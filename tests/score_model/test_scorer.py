"""A score depends on its own image and text alone; what cannot be scored is missing, with a reason."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from rsqa_pipeline.models.load import QwenVLProcessor, weights_version
from rsqa_pipeline.models.scoring_group import Group
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.model import ScoreModel
from rsqa_pipeline.score_model.scorer import Scorer

QUESTION = [Message(role="user", content="Is the field red or blue?")]


@pytest.fixture
def scorer(model: ScoreModel, processor: QwenVLProcessor) -> Scorer:
    return Scorer(model, processor, max_length=192, version="test")


@pytest.fixture
def groups(images: dict[str, str]) -> list[Group]:
    return [
        Group(images["red"], [], ["a red field", "a blue field seen from above", "red " * 30]),
        Group(images["blue"], QUESTION, ["blue", "red", "it is blue, seen from above"]),
        Group(images["red"], QUESTION, ["red"]),
        Group(Image.open(images["white"]), [], ["a white field"]),
        Group(None, QUESTION, ["yes", "no"]),
        Group(images["green"], [], []),
    ]


def flat(scores: list[list[float | None]]) -> list[float]:
    return [score for group in scores for score in group if score is not None]


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_scores_do_not_depend_on_batch_order_or_grouping(scorer: Scorer, groups: list[Group], batch_size: int) -> None:
    together = scorer.score(groups, batch_size)
    assert [len(of_group) for of_group in together] == [3, 3, 1, 1, 2, 0]
    alone = [[scorer.score([Group(g.image, g.context, [text])], 1)[0][0] for text in g.candidates] for g in groups]
    assert flat(together) == pytest.approx(flat(alone), abs=1e-4)
    places = list(range(len(groups)))
    random.Random(3).shuffle(places)
    shuffled = scorer.score([groups[place] for place in places], batch_size)
    assert flat([shuffled[places.index(place)] for place in range(len(groups))]) == pytest.approx(
        flat(together), abs=1e-4
    )


def test_image_and_context_matter(scorer: Scorer, images: dict[str, str]) -> None:
    (red,), (blue,), (asked,), (none,) = scorer.score(
        [
            Group(images["red"], [], ["a field"]),
            Group(images["blue"], [], ["a field"]),
            Group(images["red"], QUESTION, ["a field"]),
            Group(None, [], ["a field"]),
        ],
        8,
    )
    assert len({red, blue, asked, none}) == 4


def test_an_image_is_opened_and_encoded_once_per_batch(
    scorer: Scorer, images: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = scorer.model.backbone.get_image_features
    monkeypatch.setattr(
        scorer.model.backbone,
        "get_image_features",
        lambda pixels, grid, **kwargs: (seen.append(len(grid)), encode(pixels, grid, **kwargs))[1],
    )
    scorer.score([Group(images["red"], [], [f"field {n}" for n in range(6)])] * 2, batch_size=16)
    assert seen == [1]


def test_an_image_that_cannot_be_opened_costs_only_its_own_group(
    scorer: Scorer, groups: list[Group], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    bad = [Group(str(tmp_path / "bad.png"), [], ["a", "b"]), Group(str(tmp_path / "none.png"), [], ["a"])]
    mixed = scorer.score_or_reason([bad[0], *groups, bad[1]], 4)
    assert [score.reason for score in mixed[0]] == ["undecodable"] * 2
    assert mixed[-1][0].value is None and mixed[-1][0].reason == "missing_image"
    values = [[score.value for score in of_group] for of_group in mixed[1:-1]]
    assert flat(values) == pytest.approx(flat(scorer.score(groups, 4)), abs=1e-4)


def test_a_score_that_is_not_finite_is_missing(scorer: Scorer, groups: list[Group]) -> None:
    with torch.no_grad():
        scorer.model.head.weight.fill_(torch.nan)
    scores = scorer.score_or_reason(groups, 4)
    assert {(score.value, score.reason) for of_group in scores for score in of_group} == {(None, "not_finite")}


def test_an_image_larger_than_the_context_is_told(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    short = Scorer(model, processor, max_length=16, version="test")
    ((image,), (text,)) = short.score_or_reason([Group(images["red"], [], ["a"]), Group(None, [], ["a"])], 4)
    assert image.reason == "context_too_long" and text.value is not None


def test_a_long_text_loses_its_end(scorer: Scorer, images: dict[str, str]) -> None:
    (scores,) = scorer.score([Group(images["red"], [], ["red " * 200 + end for end in ("field", "blue")])], 4)
    assert scores[0] is not None and scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scorer.truncated == 2
    scorer.score([Group(images["red"], [], ["red"])], 4)
    assert scorer.truncated == 2


def test_load_gives_the_same_scores_and_the_weights_hash(
    scorer: Scorer, processor: QwenVLProcessor, groups: list[Group], tmp_path: Path
) -> None:
    scorer.model.save_pretrained(tmp_path)
    processor.tokenizer.model_max_length = 192
    processor.save_pretrained(tmp_path)
    loaded = Scorer.load(tmp_path, Compute(device="cpu"))
    assert loaded.version == weights_version(tmp_path)
    assert flat(loaded.score(groups, 8)) == pytest.approx(flat(scorer.score(groups, 8)), abs=1e-6)


def test_scoring_leaves_the_training_mode_as_it_was(scorer: Scorer, groups: list[Group]) -> None:
    scorer.model.train()
    scorer.score(groups, 8)
    assert scorer.model.training
