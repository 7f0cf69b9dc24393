"""A training step of the score model with shared images and sequences, compared with one row per text.

    OMP_NUM_THREADS=1 python perf/training_step.py

The naive method gives every caption its own row and its own copy of the image's pixels, as the released code does.
Weights are random; the two losses and the norms of their gradients are asserted to be equal.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLModel

from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.training.losses import bradley_terry
from rsqa_pipeline.tiny_models.architecture import train_vlm_processor

WORDS = (
    "a",
    "white",
    "red",
    "large",
    "dense",
    "road",
    "river",
    "field",
    "harbour",
    "ship",
    "tank",
    "tree",
    "beside",
    "two",
)
PATCH, MERGE = 14, 2


def score_model(encoder: ChatEncoder, width: int, layers: int) -> ScoreModel:
    """A Qwen2-VL score model with random weights, all of them trained."""
    token = encoder.processor.tokenizer.convert_tokens_to_ids
    heads = width // 64
    text = {
        "vocab_size": len(encoder.processor.tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
    }
    vision = {"depth": layers, "embed_dim": width, "hidden_size": width, "num_heads": heads, "patch_size": PATCH}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=token("<|image_pad|>"))
    torch.manual_seed(0)
    model = ScoreModel(Qwen2VLModel(config))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.train()


def captions(count: int, words: int) -> list[list[str]]:
    """``count`` lists of four texts, the better two first."""
    rng = np.random.default_rng(0)
    return [[" ".join(rng.choice(WORDS, words)) for _ in range(4)] for _ in range(count)]


def batches(encoder: ChatEncoder, images: int, side: int, words: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same texts and images as arguments of the model: shared, and with one row and image per text."""
    rng = np.random.default_rng(0)
    pixels = [encoder.pixels(Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))) for _ in range(images)]
    rows = [
        CandidateRow(encoder.tokens([], text, True), image)
        for image, texts in enumerate(captions(images, words))
        for text in texts
    ]
    own = [CandidateRow(row.tokens, index) for index, row in enumerate(rows)]
    shared = encoder.batch(rows, dict(enumerate(pixels)))
    return shared, encoder.batch(own, {index: replace(pixels[index // 4]) for index in range(len(own))})


def step(model: ScoreModel, batch: dict[str, Tensor]) -> tuple[float, float, float]:
    """Loss of the first two texts of each image over the last two, norm of its gradient, CPU seconds."""
    model.zero_grad()
    start = time.process_time()
    scores = model(**batch).view(-1, 4)
    loss = bradley_terry(scores[:, :2].flatten(), scores[:, 2:].flatten())
    loss.backward()
    seconds = time.process_time() - start
    norm = torch.nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
    return loss.item(), norm.item(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="images per step, four captions each")
    parser.add_argument("--side", type=int, default=448, help="side of an image in pixels; 448 gives 256 tokens")
    parser.add_argument("--words", type=int, default=40, help="words per caption")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4, help="layers of the vision tower and of the language model")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    processor = train_vlm_processor(WORDS * 5, arguments.side)
    processor.image_processor.patch_size, processor.image_processor.merge_size = PATCH, MERGE
    encoder = ChatEncoder(processor, 4096)
    model = score_model(encoder, arguments.width, arguments.layers)
    found: dict[str, tuple[float, float, float]] = {}
    batch_of = dict(
        zip(("shared", "naive"), batches(encoder, arguments.images, arguments.side, arguments.words), strict=True)
    )
    for name, batch in batch_of.items():
        runs = [step(model, batch) for _ in range(arguments.repeats)]
        found[name] = (*runs[0][:2], min(seconds for *_, seconds in runs))
        tokens, patches = int(batch["attention_mask"].sum()), len(batch["pixel_values"])
        print(f"{name:>6}: loss {runs[0][0]:.6f}, {found[name][2]:.2f} s of CPU, {tokens} tokens, {patches} patches")
    shared, naive = found["shared"], found["naive"]
    assert abs(shared[0] - naive[0]) < 1e-5, "the losses differ"
    assert abs(shared[1] - naive[1]) < 1e-3 * naive[1], "the gradients differ"
    tokens = [int(batch_of[name]["attention_mask"].sum()) for name in ("naive", "shared")]
    print(
        f"naive / shared: {naive[2] / shared[2]:.2f} x time, {tokens[0] / tokens[1]:.2f} x tokens, "
        f"{torch.get_num_threads()} thread(s)"
    )


if __name__ == "__main__":
    main()
