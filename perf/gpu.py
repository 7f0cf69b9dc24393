"""One GPU in at most ten minutes: the scorer, one training step of each trainer, and what shared prefixes save.

    python perf/gpu.py --out gpu.md
    python perf/gpu.py --tiny --out tiny.md      # small models, on a CPU, in a minute

Needs torch, transformers, peft, accelerate and pyarrow. A step whose trainer needs trl or datasets is skipped without
them. Weights and images are random. Running out of memory is a row of the table, not an end of the run.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from scoring import (
    CONTEXT,
    SIZES,
    matmul_peak,
    new_groups,
    new_model,
    new_processor,
    scorer_method,
)
from scoring import flops as flops_of
from transformers import CLIPConfig, CLIPModel, PreTrainedModel, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from rsqa_pipeline.finetuned_models.contrastive import ContrastiveStep, PairBatch
from rsqa_pipeline.models.load import QwenVLProcessor, Vlm
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute, InstructionStep, load_profile
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.score_model.training.losses import bradley_terry
from rsqa_pipeline.tracking.run_logger import SilentLogger

PACKAGES = ("torch", "transformers", "peft", "accelerate", "pyarrow", "trl", "datasets")
OUT_OF_MEMORY = "out of memory"
SECONDS = 480
"""No measurement starts after so many seconds."""


@dataclass
class Table:
    """Measured rows; each is printed as soon as it is there."""

    device: str
    start: float = field(default_factory=time.perf_counter)
    lines: list[str] = field(default_factory=list)

    def add(self, what: str, result: str) -> None:
        self.lines.append(f"| {what} | {result} | {self.peak_memory()} |")
        print(self.lines[-1], flush=True)

    def peak_memory(self) -> str:
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if self.device == "cuda" else "-"

    def guarded(self, what: str, measure: Callable[[], None]) -> None:
        """Runs a measurement. Out of memory, or without an optional package, it becomes a row that says so."""
        if time.perf_counter() - self.start > SECONDS:
            self.add(what, f"skipped: {SECONDS} s were used up")
            return
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            measure()
        except ModuleNotFoundError as error:
            self.add(what, f"skipped: needs the package {error.name}")
        except torch.OutOfMemoryError:
            self.add(what, OUT_OF_MEMORY)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Scale:
    """Sizes of a run."""

    models: tuple[str, ...]
    side: int
    groups: int
    clip: dict[str, dict[str, int]]
    clip_batch: int
    clip_chunks: tuple[int | None, ...]
    """Chunk sizes; None: the whole batch."""
    rows: int
    """Rows of a training step of a VLM."""
    new_tokens: int


FULL = Scale(
    ("2b", "7b"), 448, 128,
    {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "patch_size": 14, "image_size": 224, "projection_dim": 768},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
    },
    1024, (None, 256, 64), 16, 256,
)  # fmt: skip
TINY = Scale(
    ("tiny",), 56, 4,
    {
        "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "patch_size": 8, "image_size": 32, "projection_dim": 32},
        "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "projection_dim": 32},
    },
    8, (None, 4), 4, 8,
)  # fmt: skip


def timed(device: str, work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a call, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repeats // 2]


def scorer_rows(table: Table, scale: Scale, size: str, folder: Path, peak: float) -> None:
    """Pairs per second in bfloat16, N completions in one pass against one at a time, difference to float32."""
    processor = new_processor(scale.side)
    model, _ = new_model(processor, size, table.device, torch.bfloat16)
    score = scorer_method(Scorer(model, processor, CONTEXT, "random", 16384))
    pairs = new_groups(folder, "pairs", scale.groups)

    def speed() -> None:
        seconds = timed(table.device, lambda: score(pairs))
        share = flops_of(score, pairs) / seconds / peak
        what = f"scorer, {size}, bfloat16, {len(pairs)} pairs of texts"
        table.add(what, f"{len(pairs) / seconds:.1f} pairs/s, {share:.0%} of the matrix peak")

    def shared_prefix() -> None:
        best = new_groups(folder, "best of 16", max(1, scale.groups // 16))
        apart = [ScoringGroup(g.image, g.context, [text]) for g in best for text in g.candidates]
        together = timed(table.device, lambda: score(best))
        alone = timed(table.device, lambda: [score([group]) for group in apart], repeats=1)
        table.add(f"16 completions of an image in one pass, {size}", f"{alone / together:.1f} x one pair at a time")

    def difference() -> None:
        some = pairs[:8]
        low = score(some)
        full = scorer_method(Scorer(model.float(), processor, CONTEXT, "random", 4096))(some)
        most, spread = max(abs(a - b) for a, b in zip(low, full, strict=True)), max(full) - min(full)
        table.add(f"scorer, {size}, bfloat16 - float32", f"at most {most:.2g}; scores range over {spread:.2g}")

    table.guarded(f"scorer, {size}", speed)
    table.guarded(f"16 completions of an image in one pass, {size}", shared_prefix)
    table.guarded(f"scorer, {size}, bfloat16 - float32", difference)


def score_step(table: Table, scale: Scale, size: str, folder: Path) -> None:
    """One step of the score model's second phase: vision and head, float32 weights, bfloat16 products."""
    processor = new_processor(scale.side)
    model, _ = new_model(processor, size, table.device, torch.float32)
    model.train_only(["vision", "head"])
    model.recompute_activations()
    model.train()
    encoder = ChatEncoder(processor, CONTEXT)
    groups = new_groups(folder, "pairs", scale.rows)
    rows = [row for g in groups for row in encoder.rows(g.context, g.candidates, g.image)]
    batch = encoder.batch(rows, {g.image: encoder.pixels(str(g.image)) for g in groups if g.image})
    batch = {name: tensor.to(table.device) for name, tensor in batch.items()}
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def step() -> None:
        adamw.zero_grad()
        with torch.autocast(table.device, torch.bfloat16):
            scores = model(**batch).view(-1, 2)
        bradley_terry(scores[:, 0], scores[:, 1]).backward()
        adamw.step()

    table.add(f"score model, {size}, vision and head, {scale.rows} pairs", f"{timed(table.device, step):.2f} s")


def clip_step(table: Table, scale: Scale, size: int, chunk_size: int | None) -> None:
    """One contrastive step with all weights trained, of the whole batch or in chunks."""
    shape = scale.clip
    side, width = shape["vision"]["image_size"], shape["text"]["projection_dim"]
    with torch.device(table.device):
        config = CLIPConfig(text_config=shape["text"], vision_config=shape["vision"], projection_dim=width)
        model = CLIPModel(config).train()
        ids = torch.randint(5, 1000, (size, 77))
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch = PairBatch(torch.randn(size, 3, side, side), tokens, torch.eye(size, dtype=torch.bool))
    contrast = ContrastiveStep(model, ProcessGroup(torch.device(table.device)), chunk_size, bfloat16=True)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        adamw.zero_grad()
        contrast.backward(batch, 1, [0])
        adamw.step()

    seconds = timed(table.device, step)
    table.add(clip_row(size, chunk_size), f"{seconds:.2f} s, {size / seconds:.0f} pairs/s")


def clip_row(size: int, chunk_size: int | None) -> str:
    return f"CLIP, training step, batch {size:,}" + (f" in chunks of {chunk_size}" if chunk_size else "")


def new_vlm(processor: QwenVLProcessor, size: str, device: str) -> Vlm:
    """A Qwen2-VL with random bfloat16 weights and its output head."""
    token = processor.tokenizer.convert_tokens_to_ids
    shape = SIZES[size]
    text = {"vocab_size": len(processor.tokenizer), **shape["text"]}
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    config = Qwen2VLConfig(
        text_config={**text, "rope_parameters": rope, "eos_token_id": processor.tokenizer.eos_token_id},
        vision_config={**shape["vision"], "hidden_size": text["hidden_size"], "patch_size": 14},
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
    )  # fmt: skip
    with torch.device(device):
        model: PreTrainedModel = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    return Vlm(model, processor, "random")


def sft_step(table: Table, scale: Scale, size: str, folder: Path) -> None:
    """Optimizer steps of step S: LoRA and the connector. The first one's start is included."""
    from rsqa_pipeline.finetuned_models.finetune_vlm import train_step
    from rsqa_pipeline.finetuned_models.training import SftExample, TrainingRun

    processor = new_processor(scale.side)
    vlm = new_vlm(processor, size, table.device)
    groups = new_groups(folder, "pairs", scale.rows)
    question = [Message(role="user", content="what is beside the road")]
    examples = [SftExample(str(g.image), question, g.candidates[0], str(n)) for n, g in enumerate(groups)]
    step = InstructionStep(learning_rate=1e-5, batch_size=scale.rows, steps=4, lora_rank=64, lora_alpha=64)
    run = TrainingRun(0, _compute(table.device), folder, SilentLogger())
    start = time.perf_counter()
    train_step(vlm, examples, step, CONTEXT, run, "instructions")
    seconds = (time.perf_counter() - start) / 4
    table.add(f"SFT, {size}, LoRA and connector, batch {scale.rows}, mean of 4", f"{seconds:.2f} s a step")


def grpo_step(table: Table, scale: Scale, size: str, folder: Path) -> None:
    """One optimizer step with rule rewards and without KL, whose reference model would be read from a folder."""
    from rsqa_pipeline.finetuned_models.training import TrainingRun
    from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
    from rsqa_pipeline.rl_policy.train_grpo import train_grpo

    base = load_profile("demo").rl_policy
    sampling = base.sampling.model_copy(update={"max_new_tokens": scale.new_tokens})
    grpo = base.grpo.model_copy(update={"batch_size": scale.rows, "epochs": 1, "steps": 1, "warmup_steps": 0})
    config = base.model_copy(update={"rollouts": 4, "sampling": sampling, "grpo": grpo, "kl": 0.0})
    question = [Message(role="user", content="how many ships")]
    groups = new_groups(folder, "pairs", scale.rows)
    prompts = [PolicyPrompt(str(n), str(n), str(g.image), question, "count", "3", 0.0) for n, g in enumerate(groups)]
    vlm = new_vlm(new_processor(scale.side), size, table.device)
    start = time.perf_counter()
    train_grpo(vlm, prompts, None, config, TrainingRun(0, _compute(table.device), folder, SilentLogger()))
    seconds = time.perf_counter() - start
    what = f"GRPO, {size}, {scale.rows} completions of at most {scale.new_tokens} tokens, no KL"
    table.add(what, f"{seconds:.1f} s for the first step")


def _compute(device: str) -> Compute:
    return Compute(device="cuda" if device == "cuda" else "cpu", dtype="bfloat16")


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join([f"Python {platform.python_version()}", *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--tiny", action="store_true", help="small models, on a CPU too")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        parser.error("torch sees no GPU; --tiny measures small models on a CPU")
    scale, table = (TINY if arguments.tiny else FULL), Table(device)
    SIZES["tiny"] = {
        "text": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 4},
        "vision": {"embed_dim": 64, "depth": 2, "num_heads": 4},
    }  # fmt: skip
    peak = matmul_peak(device, torch.bfloat16)
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    head = [
        f"{card}; bfloat16 matrix products at {peak / 1e12:.2f} TFLOP/s. {versions()}.",
        "",
        "| measured | result | peak memory |",
        "|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in scale.models:
            table.guarded(f"scorer, {size}", partial(scorer_rows, table, scale, size, Path(folder), peak))
        for chunk_size in scale.clip_chunks:
            what = clip_row(scale.clip_batch, chunk_size)
            table.guarded(what, partial(clip_step, table, scale, scale.clip_batch, chunk_size))
        for name, step in (("score model", score_step), ("SFT", sft_step), ("GRPO", grpo_step)):
            what = f"{name}, {scale.models[0]}, training step"
            table.guarded(what, partial(step, table, scale, scale.models[0], Path(folder)))
    arguments.out.write_text("\n".join([*head, *table.lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
