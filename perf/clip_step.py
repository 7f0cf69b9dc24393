"""A contrastive training step in chunks (gradient caching), compared with the step of the whole batch.

    OMP_NUM_THREADS=1 python perf/clip_step.py

Weights and images are random. Each way runs in a process of its own, so that its peak memory is its own; the losses and
the norms of the gradients are asserted to be equal.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from rsqa_pipeline.finetuned_models.contrastive import ContrastiveStep, PairBatch
from rsqa_pipeline.score_model.training.distributed import ProcessGroup

CONTEXT = 64


def random_model(siglip: bool, width: int, layers: int, side: int) -> torch.nn.Module:
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    tower["num_attention_heads"] = width // 64
    vision, text = {**tower, "image_size": side, "patch_size": 16}, {**tower, "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    if siglip:
        return SiglipModel(SiglipConfig(vision_config=vision, text_config={**text, "vocab_size": 8000}))
    return CLIPModel(CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 8000}, projection_dim=width))


def random_batch(siglip: bool, size: int, side: int) -> PairBatch:
    torch.manual_seed(0)
    ids = torch.randint(5, 7000, (size, CONTEXT))
    tokens = {"input_ids": ids} if siglip else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return PairBatch(torch.randn(size, 3, side, side), tokens, torch.eye(size, dtype=torch.bool))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Loss, norm of its gradient, CPU seconds and MiB above the model and its gradients, of the second step."""
    siglip = arguments.model == "siglip"
    model = random_model(siglip, arguments.width, arguments.layers, arguments.side)
    batch = random_batch(siglip, arguments.batch, arguments.side)
    contrast = ContrastiveStep(model, ProcessGroup(torch.device("cpu")), arguments.chunk_size)
    contrast.backward(random_batch(siglip, 2, arguments.side), 1, [0])  # makes the gradients' tensors
    model.zero_grad(set_to_none=False)
    before, start = _peak_mib(), time.process_time()
    loss, _ = contrast.backward(batch, 1, [0])
    seconds, peak = time.process_time() - start, _peak_mib()
    norm = torch.nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
    return {"loss": loss.item(), "norm": norm.item(), "seconds": seconds, "mib": peak - before, "before": before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["clip", "siglip"], default="clip")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--chunks", type=int, nargs="+", default=[32, 8], help="chunk sizes beside the whole batch")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="side of an image in pixels; patches are of 16")
    parser.add_argument("--chunk-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    found: list[dict[str, float]] = []
    for size in (None, *arguments.chunks):
        chosen = [] if size is None else ["--chunk-size", str(size)]
        command = [sys.executable, *sys.argv, "--one", *chosen]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        name = f"batch {arguments.batch}" + (f" in chunks of {size}" if size else "")
        print(
            f"{arguments.model}, {name}: loss {found[-1]['loss']:.6f}, {found[-1]['mib']:.0f} MiB above "
            f"{found[-1]['before']:.0f}, {found[-1]['seconds']:.2f} s of CPU"
        )
        assert abs(found[-1]["loss"] - found[0]["loss"]) < 1e-5, "the losses differ"
        assert abs(found[-1]["norm"] - found[0]["norm"]) < 1e-4 * found[0]["norm"], "the gradients differ"


if __name__ == "__main__":
    main()
