"""A first pass drops rows that cannot be kept: nearly the same are kept as without it, with the same scores."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Qwen2VLModel
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets.scoring import fit_first_pass
from rsqa_pipeline.curated_subsets.scoring.first_pass import CANNOT_BE_KEPT, FirstPass
from rsqa_pipeline.curated_subsets.scoring.fit_first_pass import conformal_cut, fit_bound, threshold
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.first_layers import Exit, FirstLayers, exits, first_layers
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS

ROWS, KEEP, MISS = 400, 0.3, 0.1
WORDS = [
    "a",
    "white",
    "red",
    "large",
    "dense",
    "road",
    "river",
    "field",
    "ship",
    "tank",
    "tree",
    "beside",
    "two",
    "many",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deep score model whose later layers add nothing, so that its first layers tell the score; captions and answers
    about six images, and a row whose image is missing."""
    folder = tmp_path_factory.mktemp("first_pass")
    config = AutoConfig.from_pretrained(CHECKPOINTS / "vlm")
    config.text_config.num_hidden_layers = 12
    config.text_config.layer_types = ["full_attention"] * 12
    config.vision_config.depth = 1
    torch.manual_seed(0)
    backbone = Qwen2VLModel._from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for layer in backbone.language_model.layers[3:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model = ScoreModel(backbone)
        model.head.weight.normal_()
    processor = load_processor(CHECKPOINTS / "vlm")
    processor.tokenizer.model_max_length = 160
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    write_rows(folder / "data.json", rng)
    return folder


def write_rows(path: Path, rng: np.random.Generator) -> None:
    rows = []
    for number in range(2 * ROWS):
        text = " ".join(rng.choice(WORDS, rng.integers(4, 12)))
        turns = [{"from": "gpt", "value": text}]
        if number % 2:
            turns.insert(0, {"from": "human", "value": "<image>\nwhat is there?"})
        rows.append({"id": f"row{number}", "image": f"{number % 6}.png", "conversations": turns})
    rows[7]["image"] = "missing.png"
    path.write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return Scorer.load(folder / "model", Compute(device="cpu", batch_tokens=2048))


def run(*words: object, code: int = 0) -> str:
    """Output of a command, and the message of its error."""
    reply = CliRunner().invoke(app, [*map(str, words)])
    assert reply.exit_code == code, reply.output + str(reply.exception)
    return reply.output + str(reply.exception)


def score(folder: Path, out: Path, *more: object) -> str:
    files = ["--model", folder / "model", "--data", folder / "data.json", "--out", out, "--format", "llava"]
    return run("score", *files, "--device", "cpu", "--shard-rows", 300, *more)


def curate(folder: Path, scores: Path, out: Path, *more: object, code: int = 0) -> str:
    return run("curate", "--scores", scores, "--data", folder / "data.json", "--out", out, *more, code=code)


def kept(out: Path) -> list[str]:
    return sorted(row["id"] for row in json.loads(out.read_text()))


def groups() -> list[ScoringGroup]:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    question = [{"role": "user", "content": "what is there?"}]
    return [ScoringGroup(image, [], ["two ships", "a red tank"]), ScoringGroup(image, question, ["a road"])]  # type: ignore[list-item]


def test_first_layers_give_the_states_of_the_whole_model_there(scorer: Scorer) -> None:
    """The same as the hidden states that transformers returns, after the final norm."""
    part = FirstLayers(scorer, Exit(2, 1.0))
    states, rows = part.states(groups())
    assert [len(of_group) for of_group in rows] == [2, 1] and sorted(chain(*rows)) == [0, 1, 2]  # type: ignore[type-var]
    one = groups()[1]
    encoder = scorer._encoder
    pixels = {1: encoder.pixels(one.image)}  # type: ignore[arg-type]
    batch = encoder.batch(encoder.rows(one.context, one.candidates, 1), pixels)
    backbone = scorer.model.backbone
    seen = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    kinds = (seen["input_ids"] == backbone.config.image_token_id).int()
    with torch.inference_mode():
        found = backbone(**seen, mm_token_type_ids=kinds, output_hidden_states=True)
        expected = backbone.language_model.norm(found.hidden_states[2])[0, -1]
    np.testing.assert_allclose(states[rows[1][0]], expected, atol=1e-4)


def test_all_layers_give_what_the_head_reads_and_weights_are_shared(scorer: Scorer) -> None:
    layers = len(scorer.model.backbone.language_model.layers)
    shorter = first_layers(scorer.model, 3)
    assert len(shorter.backbone.language_model.layers) == 3
    assert len(scorer.model.backbone.language_model.layers) == layers == 12
    assert {id(p) for p in shorter.parameters()} < {id(p) for p in scorer.model.parameters()}
    states, rows = FirstLayers(scorer, Exit(layers, 1.0)).states(groups())
    head = scorer.model.head.weight.detach().numpy()[0]
    expected = [value for of_group in scorer.score(groups()) for value in of_group]
    np.testing.assert_allclose(states[list(chain(*rows))] @ head, expected, rtol=1e-4, atol=1e-4)


def test_smaller_images_have_a_share_of_the_tokens(scorer: Scorer) -> None:
    usual = len(scorer._encoder.pixels(groups()[0].image).tokens)  # type: ignore[arg-type]
    smaller = FirstLayers(scorer, Exit(2, 0.25))._encoder.pixels(groups()[0].image)  # type: ignore[arg-type]
    assert len(smaller.tokens) == usual // 4
    assert exits(scorer.model) == [Exit(3, 0.25), Exit(6, 0.25), Exit(3, 1.0), Exit(6, 1.0)]


def test_kept_rows_have_the_scores_that_they_have_without_it(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit_first_pass, "MISS", MISS)
    full, best = tmp_path / "full.parquet", tmp_path / "best.parquet"
    score(folder, full)
    output = score(folder, best, "--adaptive", "--keep", KEEP)
    assert "first pass: " in output and "1 quarantined: missing_image" in output
    record = FirstPass.read(tmp_path / "best.first_pass.json")
    assert record.work < 1 and record.keep == KEEP

    of_all = {row["key"]: row["score"] for row in pq.read_table(full).to_pylist()}
    of_best = {row["key"]: row["score"] for row in pq.read_table(best).to_pylist()}
    refused = pq.read_table(tmp_path / "best.quarantine.parquet").to_pylist()
    assert Counter(row["reason"] for row in refused) == {
        CANNOT_BE_KEPT: len(of_all) - len(of_best),
        "missing_image": 1,
    }
    assert len(of_best) < 0.7 * len(of_all), "most of what cannot be kept is not scored"
    assert {row["sample_id"] for row in refused} | set(of_best) == {f"row{number}" for number in range(2 * ROWS)}
    for key, value in of_best.items():
        assert value == pytest.approx(of_all[key], rel=1e-4, abs=1e-4)

    curate(folder, full, tmp_path / "a.json", "--keep", KEEP)
    shown = curate(folder, best, tmp_path / "b.json", "--keep", KEEP)
    assert CANNOT_BE_KEPT in shown
    right, found = kept(tmp_path / "a.json"), kept(tmp_path / "b.json")
    assert len(found) == len(right), "as many as of all rows"
    missed = set(right) - set(found)
    assert len(missed) <= MISS * len(right) and not missed & set(of_best), "only what the first pass dropped is missed"

    for words in (["--keep", 0.4], ["--rule", tmp_path / "rule.yaml"]):
        (tmp_path / "rule.yaml").write_text("{selector: random, caption_fraction: 0.1, instruction_fraction: 0.1}")
        assert "without --adaptive" in " ".join(
            curate(folder, best, tmp_path / "c.json", *words, code=1).split()
        ) or pytest.fail("a rule that needs all scores was accepted")
    assert "--data" in run("curate", "--scores", best, "--keep", KEEP, "--out", tmp_path / "d.parquet", code=1)

    again = score(folder, best)  # without the first pass, what it dropped is scored, and only that
    assert "1 quarantined: missing_image" in again and CANNOT_BE_KEPT not in again
    filled = {row["key"]: row["score"] for row in pq.read_table(best).to_pylist()}
    assert filled == pytest.approx(of_all, rel=1e-4, abs=1e-4) and {k: filled[k] for k in of_best} == of_best
    curate(folder, best, tmp_path / "e.parquet", "--keep", 0.5)


def test_a_dropped_text_that_has_changed_is_a_stale_score(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit_first_pass, "MISS", MISS)
    best = tmp_path / "best.parquet"
    score(folder, best, "--adaptive", "--keep", KEEP)
    refused = pq.read_table(tmp_path / "best.quarantine.parquet").to_pylist()
    changed = next(row["sample_id"] for row in refused if row["reason"] == CANNOT_BE_KEPT)
    rows = json.loads((folder / "data.json").read_text())
    next(row for row in rows if row["id"] == changed)["conversations"][-1]["value"] = "a ship"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    files = ["--scores", best, "--data", tmp_path / "data.json", "--images", folder, "--out", tmp_path / "a.json"]
    assert "1 dropped: stale_score" in run("curate", *files, "--keep", KEEP, code=3)


def test_a_run_that_resumes_uses_the_recorded_first_pass(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit_first_pass, "MISS", MISS)
    out = tmp_path / "best.parquet"
    score(folder, out, "--adaptive", "--keep", KEEP)
    record, rows = tmp_path / "best.first_pass.json", pq.read_table(out).to_pylist()
    text = record.read_text()
    out.unlink()
    monkeypatch.setattr(fit_first_pass, "fit_first_pass", lambda *_: pytest.fail("it was fitted again"))
    score(folder, out, "--adaptive", "--keep", KEEP)
    assert pq.read_table(out).to_pylist() == rows and record.read_text() == text
    record.write_text(text[:100])
    assert "best.first_pass.json is not the record of a first pass" in run(
        "curate", "--scores", out, "--data", folder / "data.json", "--out", tmp_path / "x", "--keep", KEEP, code=1
    )


def test_all_rows_are_scored_where_a_first_pass_saves_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "best.parquet"
    assert "all rows scored in full: the file is small" in score(folder, out, "--adaptive", "--keep", KEEP)
    monkeypatch.setattr(fit_first_pass, "MISS", MISS)
    monkeypatch.setattr(fit_first_pass, "flops", lambda *_: 1)  # as if the first layers cost as much as all
    assert "all rows scored in full: the best first pass" in score(folder, out, "--adaptive", "--keep", KEEP)
    assert pq.read_table(out).num_rows == 2 * ROWS - 1
    curate(folder, out, tmp_path / "a.json", "--keep", 0.9)


def test_a_damaged_quarantine_table_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "score": [1.0]}), tmp_path / "s.parquet")
    for content in (b"no table", b""):
        (tmp_path / "s.quarantine.parquet").write_bytes(content)
        message = run("curate", "--scores", tmp_path / "s.parquet", "--keep", 1, "--out", tmp_path / "x", code=1)
        assert "s.quarantine.parquet is not a quarantine table" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adaptive"], "--adaptive and --keep go together"),
        (["--keep", 0.3], "--adaptive and --keep go together"),
        (["--adaptive", "--keep", 1], "needs a share above 0 and below 1"),
        (["--adaptive", "--keep", 0.3, "--clip"], "it has no --clip"),
    ],
)
def test_options_that_do_not_go_together_are_refused(folder: Path, tmp_path: Path, words, message) -> None:
    files = ["--model", folder / "model", "--data", folder / "data.json", "--out", tmp_path / "x.parquet"]
    assert message in " ".join(run("score", *files, *words, code=1).split())


def test_cut_misses_no_more_of_the_best_than_it_says() -> None:
    """Mean over 20 seeds, with states that tell three quarters of the score's variance."""
    missed, left = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=16) / 4
        states = rng.normal(size=(21_000, 16))
        scores = states @ weights + rng.normal(0, 0.6, 21_000)
        bound, remaining = fit_bound(states[:1000], scores[:1000], KEEP)
        assert bound.cut is not None
        predicted, others = bound.predict(states[1000:]), scores[1000:]
        best = others >= np.quantile(others, 1 - KEEP)
        missed.append(float(np.mean(predicted[best] < bound.cut)))
        left.append(float(np.mean(predicted >= bound.cut)))
        assert remaining < 1
    assert np.mean(missed) <= fit_first_pass.MISS
    assert np.mean(left) < 0.9, "and it does drop rows"


def test_conformal_cut_by_hand() -> None:
    assert conformal_cut(np.arange(98.0)) is None, "99 are needed for one in a hundred"
    assert conformal_cut(np.arange(99.0)) == 0.0
    assert conformal_cut(np.arange(199.0)[::-1]) == 1.0


def test_threshold_lies_at_or_below_the_true_one() -> None:
    rng = np.random.default_rng(0)
    below = [threshold(rng.uniform(size=400), 0.3) <= 0.7 for _ in range(1000)]
    assert np.mean(below) >= 0.93


def test_too_small_a_sample_drops_nothing() -> None:
    bound, remaining = fit_bound(np.ones((100, 4)), np.arange(100.0), KEEP)
    assert bound.cut is None and remaining == 1.0
