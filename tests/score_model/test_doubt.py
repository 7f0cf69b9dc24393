"""Bootstrap heads, intervals of the mark, the correction for length: by hand, against naive twins, on tiny models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from scipy.stats import spearmanr

from rsqa_pipeline.curated_subsets.scoring.score_file import score_tensors
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import QwenVLProcessor, weights_version
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.profile.score_model import ScoreModelSettings
from rsqa_pipeline.score_model.additions import FILE, Additions
from rsqa_pipeline.score_model.evaluation.doubt import length_rows
from rsqa_pipeline.score_model.evaluation.mark_intervals import (
    MarkCurve,
    conformal_quantile,
    mark_intervals,
    read_mark_intervals,
    write_mark_intervals,
)
from rsqa_pipeline.score_model.length_correction import GradedText, graded_texts, length_correlation, length_slope
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.pairs import score_pairs_in_full
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training import bootstrap_heads
from rsqa_pipeline.score_model.training.bootstrap_heads import fit_head, fit_heads
from rsqa_pipeline.score_model.training.train import run_instruction_phase
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, pair, write_pairs

RED = "a red field seen from above"
QUESTION = [{"role": "user", "content": "Is the field red or blue?"}]


@pytest.fixture
def scored(model: ScoreModel, processor: QwenVLProcessor, tmp_path: Path) -> Callable[[Additions], Scorer]:
    """The random model with additions, saved and loaded again."""

    def load(additions: Additions) -> Scorer:
        model.additions = additions
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        return Scorer.load(tmp_path / "model", Compute(device="cpu"))

    return load


def heads(model: ScoreModel, deviation: float = 0.1) -> torch.Tensor:
    noise = torch.randn(4, model.head.in_features, generator=torch.Generator().manual_seed(0))
    return model.head.weight.detach() + deviation * noise


def groups(images: dict[str, str]) -> list[ScoringGroup]:
    return [
        ScoringGroup(images["red"], [], [RED, "a blue field"]),
        ScoringGroup(images["blue"], QUESTION, ["blue", "it is red"]),
        ScoringGroup(None, [], ["yes"]),
    ]


def test_a_model_without_additions_writes_and_scores_as_before(
    model: ScoreModel, scored: Callable[[Additions], Scorer], images: dict[str, str], tmp_path: Path
) -> None:
    scorer = scored(Additions())
    assert sorted(file.name for file in (tmp_path / "model").glob("*.safetensors")) == ["model.safetensors"]
    found = scorer.score_or_reason(groups(images))
    assert all(score.spread is None and score.lower_bound is None for of_group in found for score in of_group)
    with pytest.raises(ModelError, match=r"score_model\.bootstrap_heads"):
        scorer.lower_bounds(groups(images))


def test_heads_give_a_spread_and_leave_the_scores(
    model: ScoreModel, scored: Callable[[Additions], Scorer], images: dict[str, str], tmp_path: Path
) -> None:
    plain, version = scored(Additions()).score(groups(images)), weights_version(tmp_path / "model")
    scorer = scored(Additions(heads(model)))
    assert weights_version(tmp_path / "model") != version, "scores with another spread need another version"
    found = scorer.score_or_reason(groups(images))
    assert [[score.value for score in of_group] for of_group in found] == plain
    # each head's score from a model that has it as its own head
    twins = []
    for weight in heads(model):
        twin = ScoreModel.from_pretrained(tmp_path / "model")
        twin.additions = Additions()
        twin.head.weight.data = weight[None]
        twins.append(Scorer(twin, scorer._encoder.processor, scorer._encoder.max_length, "twin", 4096))
    by_head = [[value for of_group in twin.score(groups(images)) for value in of_group] for twin in twins]
    spreads = [score.spread for of_group in found for score in of_group]
    assert spreads == pytest.approx(np.std(np.array(by_head, dtype=float), axis=0, ddof=1).tolist(), rel=1e-4)
    lower = [value for of_group in scorer.lower_bounds(groups(images)) for value in of_group]
    values = [value for of_group in plain for value in of_group]
    assert lower == pytest.approx([v - 1.645 * s for v, s in zip(values, spreads, strict=True)])  # type: ignore[operator]


def test_a_missing_score_has_no_spread_no_bound_and_no_interval(
    model: ScoreModel, scored: Callable[[Additions], Scorer], tmp_path: Path
) -> None:
    scorer = scored(Additions(heads(model)))
    ((missing,),) = scorer.score_or_reason([ScoringGroup(str(tmp_path / "none.png"), [], [RED])])
    assert (missing.value, missing.spread, missing.lower_bound) == (None, None, None)
    assert scorer.lower_bounds([ScoringGroup(str(tmp_path / "none.png"), [], [RED])]) == [[None]]
    found = mark_intervals(made_up(0, 300), made_up(1, 300), "caption", 0)
    assert found is not None and found.interval(None) is None


def test_the_correction_subtracts_the_slope_of_the_kind(
    scored: Callable[[Additions], Scorer], images: dict[str, str]
) -> None:
    plain = scored(Additions()).score_or_reason(groups(images))
    slopes = {"caption": 0.5, "instruction": -2.0}
    corrected = scored(Additions(length_slopes=slopes)).score_or_reason(groups(images))  # type: ignore[arg-type]
    for group, before, after in zip(groups(images), plain, corrected, strict=True):
        slope = slopes["instruction" if group.context else "caption"]
        for text, one, other in zip(group.candidates, before, after, strict=True):
            assert one.tokens == other.tokens and one.tokens is not None and one.tokens >= len(text.split())
            assert one.value is not None and other.value is not None
            assert other.value == pytest.approx(one.value - slope * math.log1p(one.tokens), abs=1e-5)


def test_prepared_tensors_are_refused_by_a_model_that_corrects_for_length(model: ScoreModel, tmp_path: Path) -> None:
    model.additions = Additions(length_slopes={"caption": 0.5, "instruction": 0.1})
    with pytest.raises(ModelError, match="length"):
        score_tensors(model, tmp_path / "rows.npz", "v", tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"bootstrap_heads": torch.zeros(4, 3)}, r"shape \[4, 3\], needs \[2 or more, 128\]"),
        ({"bootstrap_heads": torch.zeros(1, 128)}, r"shape \[1, 128\]"),
        ({"bootstrap_heads": torch.full((2, 128), torch.nan)}, "not finite"),
        ({"length_slopes": torch.zeros(3)}, r"shape \[3\], needs \[2\]"),
        ({"other": torch.zeros(2)}, "unknown tensors: other"),
        (None, "not a readable safetensors file"),
    ],
)
def test_a_broken_file_of_additions_is_refused(
    model: ScoreModel, tmp_path: Path, tensors: dict[str, torch.Tensor] | None, fault: str
) -> None:
    model.save_pretrained(tmp_path)
    if tensors is None:
        (tmp_path / FILE).write_bytes(b"nothing")
    else:
        save_file(tensors, tmp_path / FILE)
    with pytest.raises(ModelError, match=fault):
        ScoreModel.from_pretrained(tmp_path)


def test_the_released_layout_leaves_heads_out(model: ScoreModel, tmp_path: Path) -> None:
    model.activation, model.additions = "softplus", Additions(heads(model))
    model.export_released(tmp_path)
    assert not (tmp_path / FILE).exists()
    assert ScoreModel.from_pretrained(tmp_path).additions.heads is None


def test_a_head_is_the_minimum_that_a_general_optimizer_finds() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    differences = rng.normal(size=(200, 5)) + 0.4 * start
    weights = rng.integers(0, 3, 200).astype(float)
    penalty = bootstrap_heads.PENALTY * (differences**2).mean()

    def loss(head: np.ndarray) -> float:
        losses = np.logaddexp(0, -(differences @ head))
        return float(losses @ weights / weights.sum() + 0.5 * penalty * ((head - start) ** 2).sum())

    naive = minimize(loss, np.zeros(5), tol=1e-12).x
    assert fit_head(differences, weights, start) == pytest.approx(naive, abs=1e-4)


def test_separable_pairs_give_finite_heads_and_more_pairs_less_spread() -> None:
    rng = np.random.default_rng(0)
    start = np.array([1.0, 0.0, 0.0])
    spreads = []
    for count in (50, 5000):
        differences = rng.normal(size=(count, 3))
        differences[:, 0] = np.abs(differences[:, 0])  # the first value alone decides which text is better
        fitted = fit_heads(differences, list(range(count)), start, 8, seed=0)
        assert np.isfinite(fitted).all()
        spreads.append(fitted.std(axis=0)[1:].mean())
    assert spreads[1] < spreads[0]
    same = fit_heads(differences, list(range(count)), start, 8, seed=0)
    assert (same == fitted).all()


def test_pairs_of_one_image_are_resampled_together() -> None:
    """With a single image every resample is the whole data, so all heads are equal."""
    differences = np.random.default_rng(0).normal(size=(30, 3))
    fitted = fit_heads(differences, ["a"] * 30, np.ones(3), 3, seed=0)
    assert (fitted == fitted[0]).all()


def test_conformal_quantile_by_hand() -> None:
    errors = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0, 8.0, 6.0])
    assert conformal_quantile(errors, 0.9) == 9.0  # ceil(10 * 0.9) = 9th of 9
    assert conformal_quantile(errors, 0.5) == 5.0  # ceil(10 * 0.5) = 5th
    assert conformal_quantile(errors[:8], 0.9) == math.inf  # ceil(9 * 0.9) = 9th of 8
    assert conformal_quantile(np.arange(1.0, 20.0), 0.9) == 18.0


def made_up(seed: int, count: int, per_image: int = 1) -> list[GradedText]:
    """Captions whose mark is a curve of the score plus noise, exchangeable between seeds."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, count)
    marks = np.clip(3 + np.tanh(scores / 3) + rng.normal(0, 0.3, count) * (1 + (scores > 0)), 1, 5)
    return [
        GradedText("caption", f"{seed}-{index // per_image}", "", float(mark), float(score), 10)
        for index, (score, mark) in enumerate(zip(scores, marks, strict=True))
    ]


def test_intervals_cover_exchangeable_texts_at_their_level() -> None:
    found = mark_intervals(made_up(0, 500), made_up(1, 1000, per_image=2), "caption", 0)
    assert found is not None
    assert found.coverage.mean == pytest.approx(0.9, abs=0.02) and found.coverage.splits == 20
    assert (found.texts, found.images) == (1000, 500)
    new = made_up(2, 4000)
    bounds = [found.interval(text.score) or (math.nan, math.nan) for text in new]
    held = [low <= (text.mark or 0) <= high for text, (low, high) in zip(new, bounds, strict=True)]
    assert np.mean(held) == pytest.approx(0.9, abs=0.03)
    narrow, wide = found.interval(-4.0), found.interval(4.0)
    assert narrow is not None and wide is not None
    assert narrow[1] - narrow[0] < wide[1] - wide[0], "the noise is larger for high scores"


def test_a_wrong_curve_costs_width_not_coverage() -> None:
    shifted = [replace(text, mark=1.0 + (text.mark or 0) / 3) for text in made_up(0, 500)]
    right = mark_intervals(made_up(0, 500), made_up(1, 1000), "caption", 0)
    wrong = mark_intervals(shifted, made_up(1, 1000), "caption", 0)
    assert right is not None and wrong is not None
    assert wrong.coverage.mean == pytest.approx(0.9, abs=0.02)
    assert wrong.coverage.width > 1.5 * right.coverage.width


def test_too_few_texts_have_no_interval() -> None:
    assert mark_intervals(made_up(0, 10), made_up(1, 500), "caption", 0) is None
    assert mark_intervals(made_up(0, 500), made_up(1, 500, per_image=100), "caption", 0) is None
    assert mark_intervals(made_up(0, 500), made_up(1, 500), "instruction", 0) is None


def test_intervals_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = mark_intervals(made_up(0, 300), made_up(1, 300), "caption", 0)
    assert found is not None
    write_mark_intervals(tmp_path, [found])
    assert read_mark_intervals(tmp_path) == {"caption": found}


def test_the_curve_never_falls_and_passes_equal_scores() -> None:
    texts = [replace(text, score=round(text.score)) for text in made_up(0, 200)]
    curve = MarkCurve.fit(texts)
    marks = curve.mark(np.linspace(-20, 20, 100))
    assert (np.diff(marks) >= 0).all() and marks.min() >= 1 and marks.max() <= 5


def test_length_correlation_by_hand() -> None:
    def text(stratum: str, score: float, tokens: int, image: str = "a") -> GradedText:
        return GradedText("caption", image, stratum, 3.0, score, tokens)

    # longer texts are better (stratum b), but at equal quality length does not matter
    none = [text("a", 1, 1), text("a", 2, 2), text("a", 2, 1), text("a", 1, 2), text("b", 9, 90), text("b", 9, 91)]
    found = length_correlation(none, 50, 0)
    assert found is not None and found.value == pytest.approx(0) and found.n == 6
    one = [text("a", score, tokens) for score, tokens in ((1, 4), (2, 3), (5, 9), (4, 7))]
    found = length_correlation(one, 50, 0)
    assert found is not None
    assert found.value == pytest.approx(spearmanr([1, 2, 5, 4], [4, 3, 9, 7]).statistic)
    assert length_correlation([text("a", 1, 3), text("b", 2, 9)], 50, 0) is None
    assert length_correlation([], 50, 0) is None


@pytest.mark.parametrize("slope", [-1.5, 0.0, 40.0])
def test_the_slope_of_made_up_scores_is_found_and_leaves_no_correlation(slope: float) -> None:
    rng = np.random.default_rng(0)
    texts = []
    for index in range(600):
        tokens, quality = int(rng.integers(1, 40)), int(rng.integers(0, 5))
        score = quality + slope * math.log1p(tokens) + rng.normal(0, 0.5)
        texts.append(GradedText("caption", str(index // 3), str(quality), float(quality), score, tokens))
    found = length_slope(texts)
    assert found == pytest.approx(slope, abs=0.1)
    corrected = [replace(text, score=text.score - found * math.log1p(text.tokens)) for text in texts]
    left = length_correlation(corrected, 200, 0)
    assert left is not None and abs(left.value) < 0.01 and left.low < 0 < left.high
    assert length_slope([replace(text, tokens=5) for text in texts]) == 0.0


def test_only_texts_of_known_quality_are_graded() -> None:
    def both(chosen: float | None, rejected: float | None) -> tuple[Score, Score]:
        return Score(chosen, tokens=2), Score(rejected, tokens=3)

    rows = [
        pair("i", "a", "b", chosen_mark=4.3, rejected_mark=2.1),
        pair("i", "a", "c", chosen_mark=4.3, rejected_mark=4.26),  # its chosen text counts once
        pair("i", "a", "d", chosen_mark=4.3, rejected_mark=1.0),  # no score
        pair("i", "yes", "no", context=QUESTION, family="close_ended", chosen_mark=None, rejected_mark=None),
    ]
    found = graded_texts(rows, [both(1, 2), both(1, 3), both(1, None), both(5, 4)])
    assert [(text.kind, text.score, text.mark) for text in found] == [
        ("caption", 1, 4.3),
        ("caption", 2, 2.1),
        ("caption", 3, 4.26),
        ("instruction", 5, None),
    ]
    assert found[0].stratum == found[2].stratum != found[1].stratum


def test_the_last_phase_fits_what_the_profile_asks_for(
    tmp_path: Path,
    model: ScoreModel,
    processor: QwenVLProcessor,
    images: dict[str, str],
    profile: Callable[..., Profile],
) -> None:
    model.save_pretrained(tmp_path / "start" / "model")
    processor.save_pretrained(tmp_path / "start" / "model")
    asked = [pair(images["red"], "red", "no", s, context=QUESTION, family="open_ended") for s in ("train", "heldout")]
    inputs = {
        "caption_score_model": tmp_path / "start",
        "caption_preferences": write_pairs(
            tmp_path / "captions", colour_pairs(images, "train") + colour_pairs(images, "heldout")
        ),
        "instruction_preferences": write_pairs(tmp_path / "instructions", asked),
        "text_preferences": write_pairs(tmp_path / "texts", []),
    }
    settings = profile(epochs=1)
    found = {}
    for name, changes in (("off", {}), ("on", {"bootstrap_heads": 3, "length_debias": True})):
        score_model = ScoreModelSettings.model_validate({**settings.score_model.model_dump(), **changes})
        (tmp_path / name).mkdir()
        run_instruction_phase(
            inputs, tmp_path / name, settings.model_copy(update={"score_model": score_model}), SilentLogger()
        )
        found[name] = ScoreModel.from_pretrained(tmp_path / name / "model")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in found]
    assert weights[0] == weights[1], "the additions change no weight"
    assert found["off"].additions == Additions()
    fitted = found["on"].additions
    assert fitted.heads is not None and fitted.heads.shape == (3, 128)
    assert not torch.equal(fitted.heads[0], fitted.heads[1])
    assert set(fitted.length_slopes) == {"caption", "instruction"}


def test_length_rows_report_what_held_before_the_correction(
    scored: Callable[[Additions], Scorer], images: dict[str, str]
) -> None:
    pairs = colour_pairs(images, "heldout")
    plain = scored(Additions())
    before = length_rows(plain, pairs, in_full(plain, pairs), 20, 0)
    corrected = scored(Additions(length_slopes={"caption": 3.0, "instruction": 0.0}))
    after = length_rows(corrected, pairs, in_full(corrected, pairs), 20, 0)
    assert [row.kind for row in before] == ["caption"] and before[0].slope is None
    assert after[0].slope == 3.0 and after[0].uncorrected_accuracy == before[0].accuracy
    assert (after[0].uncorrected is None) == (before[0].correlation is None)


def in_full(scorer: Scorer, pairs: list[dict[str, object]]) -> list[tuple[Score, Score]]:
    return score_pairs_in_full(scorer, pairs)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"bootstrap_heads": 1}, "one head has no spread"),
        ({"length_debias": True, "activation": "softplus"}, "needs activation: none"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    profile: Callable[..., Profile], changes: dict[str, object], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        ScoreModelSettings.model_validate({**profile().score_model.model_dump(), **changes})
    without = json.loads(profile().score_model.model_dump_json())
    without["phases"]["instruction"] = None
    with pytest.raises(ValueError, match="which is left out"):
        ScoreModelSettings.model_validate({**without, "bootstrap_heads": 4})
