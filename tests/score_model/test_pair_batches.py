"""Steps, shares and micro batches: every process learns its share of the same rankings, within its memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.training.losses import ranking_loss
from rsqa_pipeline.score_model.training.pair_batches import PairBatches
from rsqa_pipeline.score_model.training.ranked_lists import MarkedPair, Ranking, as_lists
from tests.score_model.examples import colour_pairs, pair

LEARNED = ("ranked", "counts", "mark_gaps")


def data_of(
    processor: QwenVLProcessor, rows: list[dict[str, object]], tokens: int | None = None, **phase: object
) -> PairBatches:
    settings = ScoreModelPhase.model_validate({"train": ["head"], "learning_rate": 0.1, "batch_size": 4, **phase})
    return PairBatches(rows, ChatEncoder(processor, 192), settings, seed=0, tokens_per_pass=tokens)


def loss_of(model: ScoreModel, data: PairBatches, world_size: int) -> torch.Tensor:
    """The first step's loss over the micro batches of ``world_size`` processes."""
    losses = []
    for rank in range(world_size):
        for part in data.micro_batches(0, rank, world_size):
            batch = data.collate(part.rankings)
            ranked, counts, _ = (batch.pop(name) for name in LEARNED)
            losses.append(part.weight * ranking_loss(model(**batch), ranked, counts))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
@pytest.mark.parametrize(("count", "tokens"), [(1, 60), (1, 10_000), (2, None), (3, 60), (5, None), (16, None)])
def test_the_loss_of_a_step_does_not_depend_on_how_it_is_split(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str], loss: str, count: int, tokens: int | None
) -> None:
    rows = colour_pairs(images, "train")
    rows = [{**row, "rejected_mark": float(n % 3)} for n, row in enumerate(rows)]
    one = data_of(processor, rows, batch_size=6, gradient_accumulation=2, loss=loss)
    cut = data_of(processor, rows, tokens, batch_size=6, gradient_accumulation=2, loss=loss)
    with torch.no_grad():
        assert loss_of(model, cut, count).item() == pytest.approx(loss_of(model, one, 1).item(), abs=1e-5)
    micro_batches = [cut.micro_batches(0, rank, count) for rank in range(count)]
    assert len({len(of_rank) for of_rank in micro_batches}) == 1
    assert sum(part.weight for of_rank in micro_batches for part in of_rank) == pytest.approx(1)


def test_micro_batches_stay_within_the_token_limit_and_count_an_image_once(
    processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    rows = colour_pairs(images, "train")
    data = data_of(processor, rows, 300, batch_size=12)
    parts = [part.rankings for part in data.micro_batches(0)]
    assert len(parts) > 1 and sum(map(len, parts)) == 12
    for part, following in pairwise(parts):
        assert data.tokens(part) <= 300 < data.tokens([*part, following[0]])
    # 4 tokens per image of 32 x 32 pixels, in addition to the placeholder in each text
    first, second = (r for r in data.rankings if r.rows[0] == data.rankings[0].rows[0] and r != data.rankings[2])
    texts = {*first.rows, *second.rows}
    assert len(texts) == 3 and data.tokens([first, second]) == sum(len(row.tokens) for row in texts) + 4


def test_a_ranking_beyond_the_token_limit_is_its_own_micro_batch(
    processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    data = data_of(processor, colour_pairs(images, "train"), 1)
    assert [len(part.rankings) for part in data.micro_batches(0)] == [1] * 4


def test_lists_by_hand() -> None:
    rows = {name: CandidateRow((ord(name),), "image") for name in "abcdexy"}

    def marked(chosen: str, rejected: str, mark: float | None) -> MarkedPair:
        return MarkedPair(Ranking((rows[chosen], rows[rejected]), 1.0), mark)

    pairs = [marked("a", "b", 3), marked("x", "y", 2), marked("a", "c", 4), marked("a", "d", 3), marked("a", "e", None)]
    names = {row: name for name, row in rows.items()}
    found = ["".join(names[row] for row in ranking.rows) for ranking in as_lists(pairs)]
    assert found == ["acb", "xy", "ad", "ae"]


def test_lists_have_one_image_and_marks_give_the_gap(processor: QwenVLProcessor, images: dict[str, str]) -> None:
    red, blue = images["red"], images["blue"]
    rows = [
        pair(red, "a red field", "a field", rejected_mark=3.0),
        pair(red, "a red field", "a blue field", rejected_mark=1.0),
        pair(blue, "a red field", "a field", rejected_mark=2.0),
        pair(red, "a white field", "no", chosen_mark=None, rejected_mark=None),
    ]
    lists = data_of(processor, rows, loss="plackett_luce").rankings
    assert [len(ranking.rows) for ranking in lists] == [3, 2, 2]
    assert [ranking.mark_gap for ranking in data_of(processor, rows).rankings] == [1.5, 3.5, 2.5, 0.0]


def test_a_blank_image_keeps_the_loss_and_gives_the_tower_zero_gradients(
    model: ScoreModel, processor: QwenVLProcessor
) -> None:
    settings = ScoreModelPhase(train=["head"], learning_rate=0.1, batch_size=2)
    rows = [pair(None, "yes field", "no"), pair(None, "yes", "no field")]
    plain, blank = (PairBatches(rows, ChatEncoder(processor, 192), settings, 0, always_image=a) for a in (False, True))
    model.train_only(["vision", "head"])
    losses = []
    for data in (plain, blank):
        batch = data.collate(data.micro_batches(0)[0].rankings)
        ranked, counts, _ = (batch.pop(name) for name in LEARNED)
        scores = model(**batch)
        losses.append(ranking_loss(scores, ranked, counts))
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    (losses[1] + 0.0 * scores.sum()).backward()
    gradients = [parameter.grad for parameter in model.backbone.visual.parameters()]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)


def test_pairs_with_close_marks_are_not_learned_from(processor: QwenVLProcessor) -> None:
    marks = [(4.0, 3.9), (4.0, 3.5), (None, None)]
    rows = [pair(None, f"a field {n}", "b", chosen_mark=a, rejected_mark=b) for n, (a, b) in enumerate(marks)]
    data = data_of(processor, rows, min_gap=0.5)
    assert len(data.rankings) == 2
    assert data.faults == [(rows[0]["pair_id"], "close_marks", "4.00 and 3.90, asked 0.5")]
    assert len(data_of(processor, rows).rankings) == 3
