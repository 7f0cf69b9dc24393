"""Images of every size and shape that ingest accepts can be scored, learned from and asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor

from rsqa_pipeline.benchmarks.answers import ask
from rsqa_pipeline.finetuned_models.finetune_vlm import as_sft_examples, save_vlm, train_supervised
from rsqa_pipeline.finetuned_models.training import TrainingRun
from rsqa_pipeline.images.decode import ImageFault, decode_image
from rsqa_pipeline.images.limits import MAX_SIDE_RATIO
from rsqa_pipeline.models.conversation import encode
from rsqa_pipeline.models.image_size import image_size, max_image_tokens
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.models.prompt_length import MAX_PROMPT_TOKENS
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute, SourceFile
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training.pair_batches import PairBatches
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import pair

QWEN_SIZE = {"shortest_edge": 56 * 56, "longest_edge": 14 * 14 * 4 * 16384}
"""Least and greatest area of an image in Qwen2-VL's own processor: up to 16,384 tokens."""
SIZES = ((4096, 4096), (1, 1), (4000, 20), (3, 600), (64, 64))
CONTEXT = 160


@pytest.fixture
def wide(vlm_folder: Path, cpu: Compute) -> Vlm:
    """A tiny VLM whose processor lets an image take as many tokens as Qwen2-VL's."""
    vlm = load_vlm(vlm_folder, cpu)
    vlm.processor.image_processor.size = dict(QWEN_SIZE)
    return vlm


@pytest.fixture
def rows(tmp_path: Path) -> list[CleanRow]:
    """The rows that ingest keeps: all."""
    lines = ["image,text"]
    for width, height in SIZES:
        Image.new("RGB", (width, height), (90, 120, 60)).save(tmp_path / f"{width}_{height}.png")
        lines.append(f"{width}_{height}.png,two white tanks {width}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    source = SourceFile(format="csv", path=str(tmp_path / "rows.csv"))
    quarantine = Quarantine("image_text_pairs")
    found = check_rows(read_source(source), ImageIndex(100_000_000), quarantine)
    assert len(found) == len(SIZES) and not quarantine.rows
    return found


def image_tokens(tensors: dict[str, torch.Tensor], vlm: Vlm) -> list[int]:
    counts: list[int] = (tensors["input_ids"] == vlm.processor.image_token_id).sum(1).tolist()
    return counts


def test_what_ingest_accepts_is_scored(wide: Vlm, rows: list[CleanRow], vlm_folder: Path) -> None:
    scorer = Scorer(ScoreModel.from_base(str(vlm_folder)), wide.processor, CONTEXT, "test", 4096)
    groups = [ScoringGroup(row.row.image, [], [row.row.messages[-1]["content"]]) for row in rows]
    scores = [score for (score,) in scorer.score_or_reason(groups)]
    assert [score.reason for score in scores] == [None] * len(SIZES)
    notes = dict(zip(SIZES, (score.note for score in scores), strict=True))
    assert notes[4096, 4096] == "image_downscaled"
    assert notes[1, 1] is notes[64, 64] is None


def test_the_score_model_learns_from_what_ingest_accepts(wide: Vlm, rows: list[CleanRow]) -> None:
    phase = ScoreModelPhase(train=["head"], learning_rate=0.1, batch_size=8)
    pairs = [pair(row.row.image, str(n), "two white tanks", "how many") for n, row in enumerate(rows)]
    data = PairBatches(pairs, ChatEncoder(wide.processor, CONTEXT), phase, seed=0)
    assert not data.faults and len(data.rankings) == len(SIZES)
    (whole,) = data.micro_batches(0)
    assert max(image_tokens(data.collate(whole.rankings), wide)) <= max_image_tokens(CONTEXT)


def test_a_vlm_learns_from_what_ingest_accepts_and_answers_about_it(
    wide: Vlm, rows: list[CleanRow], tmp_path: Path
) -> None:
    samples = [
        {"image": row.row.image, "messages": row.row.messages, "sample_id": str(n)} for n, row in enumerate(rows)
    ]
    optimizer = Optimizer(learning_rate=1e-3, batch_size=len(SIZES), steps=1)
    run = TrainingRun(0, Compute(device="cpu"), tmp_path / "scratch", SilentLogger())
    wide.model.requires_grad_(False)
    wide.model.lm_head.requires_grad_(True)
    (step,) = train_supervised(
        wide.model, wide.processor, as_sft_examples(samples), optimizer, CONTEXT, run, "captions"
    )
    assert step["loss"] > 0
    save_vlm(wide, tmp_path / "model")
    trained = load_vlm(tmp_path / "model", Compute(device="cpu"))
    question = [Message(role="user", content="how many?")]
    replies = ask(trained, [question] * len(SIZES), [row.row.image for row in rows], 2, 2, seed=0)
    assert [len(samples) for samples in replies] == [1] * len(SIZES)


def test_a_prompt_has_room_for_an_image_of_any_size(wide: Vlm) -> None:
    chat = [Message(role="user", content="how many?")]
    image = Image.new("RGB", (4096, 4096))
    batch = encode(wide.processor, [chat], [image], MAX_PROMPT_TOKENS, add_generation_prompt=True)
    assert image_tokens(batch, wide) == [MAX_PROMPT_TOKENS // 2]


PROCESSORS = [
    Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=dict(QWEN_SIZE)),
    Qwen2VLImageProcessor(patch_size=8, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 4096}),
]


@settings(max_examples=300, deadline=None)
@given(
    processor=st.sampled_from(PROCESSORS),
    tokens=st.integers(1, 5000),
    short=st.integers(1, 700),
    ratio=st.floats(1, MAX_SIDE_RATIO),
    upright=st.booleans(),
    own_ratio=st.booleans(),
)
@example(processor=PROCESSORS[0], tokens=1, short=1, ratio=200.0, upright=False, own_ratio=False)
@example(processor=PROCESSORS[0], tokens=80, short=4096, ratio=1.0, upright=False, own_ratio=True)
def test_no_image_exceeds_its_tokens(
    processor: Qwen2VLImageProcessor, tokens: int, short: int, ratio: float, upright: bool, own_ratio: bool
) -> None:
    sides = (short, int(short * ratio))
    height, width = sides if upright else sides[::-1]
    size = image_size(processor, tokens, max(sides) / min(sides)) if own_ratio else image_size(processor, tokens)
    count = processor.get_number_of_image_patches(
        height, width, {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    )
    assert 1 <= count // processor.merge_size**2 <= tokens


def test_a_longer_strip_is_refused_at_ingest(tmp_path: Path) -> None:
    Image.new("RGB", (201, 1)).save(tmp_path / "strip.png")
    with pytest.raises(ImageFault, match="refused_shape"):
        decode_image((tmp_path / "strip.png").read_bytes())
