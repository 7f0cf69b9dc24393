"""The scorer beside the ways it replaces: the same weights, the same images on disk, the same scores.

    python perf/scoring.py --out scoring.json
    python perf/scoring.py --size shipped --texts 400 --out scoring_shipped.json
    python perf/scoring.py --size 7b --device cuda --batch-tokens 16384 --out scoring_7b.json

one by one: the released code's way. A text at a time into batches of two, its image opened and encoded for it alone.
padded: batches of ``--batch`` texts in the order they come, each with its image, padded to the longest.
scorer: `rsqa_pipeline.score_model.scoring.scorer`.

Weights are random, but for --size shipped. The ways take turns; seconds are the median over ``--repeats``. In float32
scores are asserted equal.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, Qwen2VLConfig, Qwen2VLModel

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.conversation import as_chat, encode
from rsqa_pipeline.models.load import QwenVLProcessor, load_processor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.network.checkpoint import read_base
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tiny_models.architecture import train_vlm_processor

WORDS = ("a", "white", "red", "large", "dense", "road", "river", "field", "ship", "tank", "tree", "beside", "two")
QUESTION = [Message(role="user", content="a large ship beside a tank or a tree beside a road")]
CONTEXT = 2048
SHIPPED = "rsqa_pipeline/tiny_models/checkpoints/vlm"

SIZES: dict[str, dict[str, dict[str, int]]] = {
    "small": {
        "text": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4},
        "vision": {"embed_dim": 256, "depth": 4, "num_heads": 4},
    },
    "7b": {
        "text": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        "vision": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    },
}
"""Shapes of Qwen2-VL; 7b is Qwen2-VL-7B's own."""

Way = Callable[[Sequence[ScoringGroup]], list[float]]


def new_processor(side: int) -> QwenVLProcessor:
    """Qwen2-VL's image processing to ``side`` x ``side`` pixels, 28 x 28 a token, and a tokenizer of few words."""
    processor = train_vlm_processor(WORDS * 5, side + 14)  # it rounds down to whole tokens
    processor.image_processor.patch_size = 14
    return processor


def new_model(
    processor: QwenVLProcessor, size: str, device: str, dtype: torch.dtype
) -> tuple[ScoreModel, PreTrainedModel]:
    """A score model, and its backbone as transformers makes it, of the same weights."""
    with torch.device(device):
        plain = (read_base(SHIPPED) if size == "shipped" else new_backbone(processor, size, dtype)).to(device).eval()
        # a copy with the same tensors: the score model changes how its backbone computes, not what it holds
        model = ScoreModel(copy.deepcopy(plain, {id(tensor): tensor for tensor in plain.parameters()}))
        torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.eval(), plain


def new_backbone(processor: QwenVLProcessor, size: str, dtype: torch.dtype) -> Qwen2VLModel:
    """A Qwen2-VL of random weights."""
    token = processor.tokenizer.convert_tokens_to_ids
    shape = SIZES[size]
    half = shape["text"]["hidden_size"] // shape["text"]["num_attention_heads"] // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    text = {
        **shape["text"],
        "num_key_value_heads": 4,
        "vocab_size": 152064 if size == "7b" else len(processor.tokenizer),
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {**shape["vision"], "hidden_size": text["hidden_size"], "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=token("<|image_pad|>"))
    torch.manual_seed(0)
    return Qwen2VLModel._from_config(config, dtype=dtype)


def new_groups(folder: Path, case: str, count: int) -> list[ScoringGroup]:
    """``count`` groups, each with a 600 x 600 JPEG of its own; captions have 10 to 90 words, answers 5 to 40."""
    rng = np.random.default_rng(0)
    candidates = {"best of 16": 16, "pairs": 2, "one caption": 1}[case]
    groups = []
    for number in range(count):
        path = folder / f"{case.replace(' ', '_')}_{number}.jpg"
        coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
        coarse.resize((600, 600), Image.Resampling.BICUBIC).save(path, quality=90)
        lengths = rng.integers(5, 41, candidates) if candidates == 16 else rng.integers(10, 91, candidates)
        texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
        groups.append(ScoringGroup(str(path), QUESTION if candidates == 16 else [], texts))
    return groups


def in_batches_of(size: int, model: ScoreModel, plain: PreTrainedModel, processor: QwenVLProcessor) -> Way:
    """Texts in the order they come, ``size`` at once, each with its image beside it, by transformers alone."""

    @torch.inference_mode()
    def way(groups: Sequence[ScoringGroup]) -> list[float]:
        rows = [(group, text) for group in groups for text in group.candidates]
        scores: list[float] = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            chats = [as_chat([*g.context, Message(role="assistant", content=text)]) for g, text in batch]
            inputs = encode(processor, chats, [open_image(str(g.image)) for g, _ in batch], CONTEXT)
            inputs = {name: tensor.to(model.head.weight.device) for name, tensor in inputs.items()}
            hidden = plain(**inputs, use_cache=False).last_hidden_state
            last = inputs["attention_mask"].sum(dim=1) - 1
            read = hidden[torch.arange(len(last), device=last.device), last]
            scores += model.head(read.float()).squeeze(-1).tolist()
        return scores

    return way


def scorer_way(scorer: Scorer) -> Way:
    def way(groups: Sequence[ScoringGroup]) -> list[float]:
        scored = scorer.score_or_reason(groups)
        missing = [score.reason for of_group in scored for score in of_group if score.value is None]
        assert not missing, f"not scored: {missing[:3]}"
        return [score.value for of_group in scored for score in of_group if score.value is not None]

    return way


def compare(ways: dict[str, Way], groups: Sequence[ScoringGroup], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of a clock and of all threads, texts a second, largest difference to the first way's scores."""
    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    of_cpu: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(groups[:1])  # warm
    for _ in range(repeats):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            scores[name] = way(groups)  # ends with numbers on the CPU, so the device is done
            seconds[name].append(time.perf_counter() - start)
            of_cpu[name].append(time.process_time() - cpu)
    first, found = scores[next(iter(ways))], {}
    for name in ways:
        middle = statistics.median(seconds[name])
        difference = max(abs(a - b) for a, b in zip(scores[name], first, strict=True))
        found[name] = {
            "seconds": middle,
            "fastest": min(seconds[name]),
            "slowest": max(seconds[name]),
            "cpu_seconds": statistics.median(of_cpu[name]),
            "texts_per_second": len(first) / middle,
            "difference": difference,
        }
    return found


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of ten."""
    side = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def flops(way: Way, groups: Sequence[ScoringGroup]) -> int:
    with FlopCounterMode(display=False) as counter:
        way(groups)
    return counter.get_total_flops()


def report(case: str, found: dict[str, dict[str, float]], share: float) -> None:
    one, padded = found["one by one"], found["padded"]
    for name, row in found.items():
        print(
            f"{case:>12} | {name:>10} | {row['seconds']:7.2f} s ({row['fastest']:.2f} to {row['slowest']:.2f}) | "
            f"{row['texts_per_second']:7.2f} texts/s | {one['seconds'] / row['seconds']:5.2f} x one by one, "
            f"{padded['seconds'] / row['seconds']:5.2f} x padded | CPU {row['cpu_seconds']:7.2f} s, "
            f"{one['cpu_seconds'] / row['cpu_seconds']:5.2f} x one by one | differs {row['difference']:.1e}",
            flush=True,
        )
    print(f"{'':>12} | the scorer runs at {share:.0%} of the matrix peak (attention counted with what its mask hides)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "shipped"], default="small", help="shipped: images are 16 tokens")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=448, help="pixels of an image's side as the model sees it")
    parser.add_argument("--texts", type=int, default=48, help="texts of each case")
    parser.add_argument("--batch", type=int, default=16, help="texts of a padded batch")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="the scorer's budget")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON of everything measured")
    given = parser.parse_args()
    dtype = torch.bfloat16 if given.device == "cuda" else torch.float32
    processor = load_processor(SHIPPED) if given.size == "shipped" else new_processor(given.side)
    model, plain = new_model(processor, given.size, given.device, dtype)
    ways = {
        "one by one": in_batches_of(2, model, plain, processor),
        "padded": in_batches_of(given.batch, model, plain, processor),
        "scorer": scorer_way(Scorer(model, processor, CONTEXT, "random", given.batch_tokens)),
    }
    peak = matmul_peak(given.device, dtype)
    settings = {name: str(value) for name, value in vars(given).items()}
    measured: dict[str, Any] = {"settings": settings, "threads": torch.get_num_threads(), "matmul_peak": peak}
    print(f"{torch.get_num_threads()} thread(s), matrix products at {peak / 1e12:.2f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        for case, candidates in (("best of 16", 16), ("pairs", 2), ("one caption", 1)):
            groups = new_groups(Path(folder), case, max(2, given.texts // candidates))
            found = compare(ways, groups, given.repeats)
            share = flops(ways["scorer"], groups) / found["scorer"]["seconds"] / peak
            report(case, found, share)
            measured[case] = {"ways": found, "share_of_peak": share}
            if given.device == "cpu":
                assert max(row["difference"] for row in found.values()) < 1e-4, "the scores differ"
    if given.device == "cuda":
        measured["peak_memory"] = torch.cuda.max_memory_allocated()
        print(f"at most {measured['peak_memory'] / 2**30:.1f} GiB of the GPU's memory")
    if given.out is not None:
        given.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
