"""The scorer compared with simpler methods: the same weights, the same images on disk, the same scores.

    python perf/scoring.py --out scoring.json
    python perf/scoring.py --size shipped --texts 400 --out scoring_shipped.json
    python perf/scoring.py --size 7b --device cuda --batch-tokens 16384 --out scoring_7b.json

one by one: as in the released code. Texts in batches of two, each text's image opened and encoded separately.
padded: batches of ``--batch`` texts in the given order, each with its image, padded to the longest.
scorer: `rsqa_pipeline.score_model.scoring.scorer`.

Weights are random, except for --size shipped. The methods take turns; seconds are the median over ``--repeats``. In
float32 the scores are asserted to be equal.
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
    "2b": {
        "text": {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    },
    "7b": {
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "vocab_size": 152064,
        },
        "vision": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    },
}
"""Shapes of Qwen2-VL; 2b and 7b are those of the published models."""

Method = Callable[[Sequence[ScoringGroup]], list[float]]


def new_processor(side: int) -> QwenVLProcessor:
    """Qwen2-VL's image processing to ``side`` x ``side`` pixels, 28 x 28 pixels per token, and a small tokenizer."""
    processor = train_vlm_processor(WORDS * 5, side + 14)  # it rounds down to whole tokens
    processor.image_processor.patch_size = 14
    return processor


def new_model(
    processor: QwenVLProcessor, size: str, device: str, dtype: torch.dtype
) -> tuple[ScoreModel, PreTrainedModel]:
    """A score model, and the unmodified transformers backbone with the same weights."""
    with torch.device(device):
        plain = (read_base(SHIPPED) if size == "shipped" else new_backbone(processor, size, dtype)).to(device).eval()
        # a copy with the same tensors: the score model changes its backbone's modules, not the weights
        model = ScoreModel(copy.deepcopy(plain, {id(tensor): tensor for tensor in plain.parameters()}))
        torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.eval(), plain


def new_backbone(processor: QwenVLProcessor, size: str, dtype: torch.dtype) -> Qwen2VLModel:
    """A Qwen2-VL with random weights."""
    token = processor.tokenizer.convert_tokens_to_ids
    shape = SIZES[size]
    half = shape["text"]["hidden_size"] // shape["text"]["num_attention_heads"] // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    text = {
        "num_key_value_heads": 4,
        "vocab_size": len(processor.tokenizer),
        **shape["text"],
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {**shape["vision"], "hidden_size": text["hidden_size"], "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=token("<|image_pad|>"))
    torch.manual_seed(0)
    return Qwen2VLModel._from_config(config, dtype=dtype)


def new_groups(folder: Path, case: str, count: int) -> list[ScoringGroup]:
    """``count`` groups, each with its own 600 x 600 JPEG; captions have 10 to 90 words, answers 5 to 40."""
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


def in_batches_of(size: int, model: ScoreModel, plain: PreTrainedModel, processor: QwenVLProcessor) -> Method:
    """Scores texts in the given order, ``size`` at once, each with its own image, using transformers only."""

    @torch.inference_mode()
    def method(groups: Sequence[ScoringGroup]) -> list[float]:
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

    return method


def scorer_method(scorer: Scorer) -> Method:
    def method(groups: Sequence[ScoringGroup]) -> list[float]:
        scored = scorer.score_or_reason(groups)
        missing = [score.reason for of_group in scored for score in of_group if score.value is None]
        assert not missing, f"not scored: {missing[:3]}"
        return [score.value for of_group in scored for score in of_group if score.value is not None]

    return method


def compare(methods: dict[str, Method], groups: Sequence[ScoringGroup], repeats: int) -> dict[str, dict[str, float]]:
    """Median wall-clock and CPU seconds, texts per second, largest difference to the scores of the first method."""
    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    of_cpu: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method(groups[:1])  # warm up
    for _ in range(repeats):
        for name, method in methods.items():
            start, cpu = time.perf_counter(), time.process_time()
            scores[name] = method(groups)  # returns numbers on the CPU, so the device has finished
            seconds[name].append(time.perf_counter() - start)
            of_cpu[name].append(time.process_time() - cpu)
    first, found = scores[next(iter(methods))], {}
    for name in methods:
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
    """FLOP/s of a large square matrix product, the best of ten.

    A small one for bfloat16 on a processor: one without instructions for it takes minutes for a large product.
    """
    side = 8192 if device == "cuda" else 2048 if dtype == torch.float32 else 256
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def flops(method: Method, groups: Sequence[ScoringGroup]) -> int:
    with FlopCounterMode(display=False) as counter:
        method(groups)
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
    print(f"{'':>12} | the scorer runs at {share:.0%} of the matrix peak (masked attention included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES, "shipped"], default="small", help="shipped: images are 16 tokens")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=448, help="side of an image as the model sees it, in pixels")
    parser.add_argument("--texts", type=int, default=48, help="texts per case")
    parser.add_argument("--batch", type=int, default=16, help="texts per padded batch")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="the scorer's token budget")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for all measurements")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    processor = load_processor(SHIPPED) if arguments.size == "shipped" else new_processor(arguments.side)
    model, plain = new_model(processor, arguments.size, arguments.device, dtype)
    methods = {
        "one by one": in_batches_of(2, model, plain, processor),
        "padded": in_batches_of(arguments.batch, model, plain, processor),
        "scorer": scorer_method(Scorer(model, processor, CONTEXT, "random", arguments.batch_tokens)),
    }
    peak = matmul_peak(arguments.device, dtype)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    measured: dict[str, Any] = {"settings": settings, "threads": torch.get_num_threads(), "matmul_peak": peak}
    print(f"{torch.get_num_threads()} thread(s), matrix products at {peak / 1e12:.2f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        for case, candidates in (("best of 16", 16), ("pairs", 2), ("one caption", 1)):
            groups = new_groups(Path(folder), case, max(2, arguments.texts // candidates))
            found = compare(methods, groups, arguments.repeats)
            share = flops(methods["scorer"], groups) / found["scorer"]["seconds"] / peak
            report(case, found, share)
            measured[case] = {"ways": found, "share_of_peak": share}
            if arguments.device == "cpu":
                assert max(row["difference"] for row in found.values()) < 1e-4, "the scores differ"
    if arguments.device == "cuda":
        measured["peak_memory"] = torch.cuda.max_memory_allocated()
        print(f"at most {measured['peak_memory'] / 2**30:.1f} GiB of GPU memory")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
