"""`rsqa plan --size` beside a finished run: rows, tokens counted with the tokenizer, and measured peak memory.

    rsqa run --profile demo
    python perf/sizing.py --profile demo

Each memory is the peak resident size of a process of its own that does 40 optimizer steps of one asset, or scores 1,500
captions. It is meant for a profile on a CPU; on a GPU the process's own memory says nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rsqa_pipeline.finetuned_models import finetune_clip, finetune_vlm
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import TrainingRun
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.conversation import as_chat, encode
from rsqa_pipeline.models.load import base_model, device_of, load_clip, load_processor, load_vlm
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.sizing.assets import sizes_of
from rsqa_pipeline.sizing.hardware import card_of
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger

STEPS, SCORED, EVERY = 40, 1500, 40


def folders(profile: Profile, names: Sequence[str]) -> dict[str, Path]:
    assets = assets_of(profile)
    return {name: assets[name].folder(profile) for name in names}


def work(profile: Profile, asset: str) -> None:
    """A part of the asset's work that is long enough to reach its peak."""
    main = profile.curated_subsets.main
    names = (f"subset_{main}", "image_text_pairs", "base_models", "score_model")
    inputs, settings = folders(profile, names), profile.finetuned_models
    if asset == "pair_scores":
        scorer = Scorer.load(inputs["score_model"] / "model", profile.compute)
        rows = read_table(inputs["image_text_pairs"] / "samples.parquet")[:SCORED]
        scorer.score_or_reason([ScoringGroup(r["image"], [], [r["messages"][-1]["content"]]) for r in rows])
        return
    captions = subset_samples(inputs, main, "image_text_pairs", "caption")
    with tempfile.TemporaryDirectory() as scratch:
        run = TrainingRun(profile.seed, profile.compute, Path(scratch), SilentLogger())
        if asset.startswith("clip_"):
            step = settings.clip.model_copy(update={"steps": STEPS})
            clip = load_clip(base_model(inputs["base_models"], "clip"), profile.compute)
            finetune_clip.train_clip(clip, captions, step, run, ProcessGroup(device_of(profile.compute)))
        else:
            vlm = load_vlm(base_model(inputs["base_models"], "vlm"), profile.compute)
            examples = finetune_vlm.as_sft_examples(captions)
            short = settings.vlm_captions.model_copy(update={"steps": STEPS})
            finetune_vlm.train_step(vlm, examples, short, settings.max_length, run, "captions")


def counted_tokens(profile: Profile) -> dict[str, float]:
    """Text and image tokens of two assets, from every 40th row of the corpus, the image and its template included."""
    inputs = folders(profile, ("image_text_pairs", "instruction_samples", "base_models"))
    processor = load_processor(base_model(inputs["base_models"], "vlm"))
    per_row, rows_of = {}, {}
    for name in ("image_text_pairs", "instruction_samples"):
        rows = [r for r in read_table(inputs[name] / "samples.parquet") if r["split"] == "corpus"]
        rows_of[name], some = len(rows), rows[::EVERY]
        per_row[name] = mean(_tokens(processor, row) for row in some)
    main = profile.curated_subsets.main
    rule, instructions = profile.curated_subsets.subsets[main], profile.finetuned_models.vlm_instructions
    captions, questions = (rows_of[n] * per_row[n] for n in ("image_text_pairs", "instruction_samples"))
    kept = captions * rule.caption_fraction
    trained = kept * (1 + instructions.caption_replay) + questions * rule.instruction_fraction
    return {"pair_scores": captions + questions, f"vlm_{main}": trained}


def _tokens(processor: Any, row: dict[str, Any]) -> int:
    inputs = encode(processor, [as_chat(row["messages"])], [open_image(row["image"])], 4096)
    return int(inputs["attention_mask"].sum())


def row(asset: str, what: str, estimate: float, found: float) -> None:
    print(f"| {asset} | {what} | {estimate:,.0f} | {found:,.0f} | {estimate / found - 1:+.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    if arguments.work:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work(profile, arguments.work)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"before": before / 1024, "peak": peak / 1024}))
        return
    sizes = sizes_of(profile, list(assets_of(profile)), card_of("H100"))
    subset = profile.curated_subsets.main
    print("| asset | what | estimate | found | off by |\n|---|---|---|---|---|")
    for asset, tokens in counted_tokens(profile).items():
        row(asset, "tokens", sizes[asset].tokens, tokens)
    for asset in ("pair_scores", f"vlm_{subset}", f"clip_{subset}"):
        words = [sys.executable, __file__, "--profile", arguments.profile, "--work", asset]
        reply = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found = json.loads(reply.splitlines()[-1])
        row(
            asset, f"peak memory, MiB ({found['before']:.0f} after imports)", sizes[asset].memory / 2**20, found["peak"]
        )


if __name__ == "__main__":
    main()
