"""What `rsqa score --adaptive` saves and misses: first passes of a score model, compared with scoring all rows.

    python perf/first_pass.py --profile demo
    python perf/first_pass.py --shapes

The first reads the profile's score model and corpus from its data folder, so `rsqa run` comes before. All rows are
scored in full and by every first pass once; then each of ``--seeds`` draws its own sample, as `rsqa score` does, and
the rest of the corpus shows what the bound misses. ``--shapes`` counts the work of a first pass for published models,
by the formulas of `rsqa plan --size`; no weights are needed.

missed: share of the exact best rows that the first pass drops (bound: at most 1 %).
left: share of the rows that are scored in full after it.
work: first pass and rest, as a share of scoring all in full; with the sample, of this corpus.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.curated_subsets.corpus import TABLES, read_corpus
from rsqa_pipeline.curated_subsets.scoring.fit_first_pass import fit_bound, sample_rows
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.score_model.additions import KINDS
from rsqa_pipeline.score_model.scoring.first_layers import DEPTHS, IMAGE_SHARES, FirstLayers, exits, flops
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.sizing.flops import layer_flops, vision_flops
from rsqa_pipeline.sizing.model_shape import KNOWN, Layers, VlmShape
from rsqa_pipeline.stages import assets_of

COUNTED = 256
"""Rows on which work is counted."""


def measure(name: str, keep: float, seeds: int) -> None:
    profile = load_profile(name)
    assets = assets_of(profile)
    scorer = Scorer.load(assets["score_model"].folder(profile) / "model", profile.compute)
    rows = read_corpus({name: assets[name].folder(profile) for name in TABLES})
    groups = {kind: groups_of(rows, kind) for kind in KINDS}
    scores = {kind: in_full(scorer, groups[kind]) for kind in KINDS}
    total = sum(map(len, groups.values()))
    counted = [group for kind in KINDS for group in groups[kind][:COUNTED]]
    whole = flops(scorer, counted)
    print(f"{total:,} rows, {whole / len(counted) / 1e6:.0f} MFLOP a row in full; best {100 * keep:g} % by kind")
    print("first pass                        cost kind          missed, % (worst)  left, %  work  with sample")
    for at in exits(scorer.model):
        part = FirstLayers(scorer, at)
        cost = flops(part, counted) / whole
        for kind in KINDS:
            states, places = part.states(groups[kind])
            states = states[[place for (place,) in places if place is not None]]
            missed, left, share = over_seeds(states, scores[kind], keep, seeds)
            work = cost + np.mean(left)
            print(
                f"{at.layers} layers, {100 * at.image_share:3.0f} % of image tokens {cost:7.2f} {kind:12}"
                f" {100 * np.mean(missed):10.2f} ({100 * np.max(missed):.2f}) {100 * np.mean(left):8.1f} {work:5.2f}"
                f" {work + share:12.2f}",
                flush=True,
            )


def over_seeds(states, scores, keep: float, seeds: int) -> tuple[list[float], list[float], float]:
    """Share of the best rows that are missed and share of rows left, for each seed; share of the rows in a sample."""
    missed, left = [], []
    size = sample_rows(keep)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(scores))
        bound, _ = fit_bound(states[order[:size]], scores[order[:size]], keep)
        others = order[size:]
        predicted = bound.predict(states[others])
        cut = -math.inf if bound.cut is None else bound.cut
        best = scores[others] >= np.quantile(scores, 1 - keep)
        missed.append(float(np.mean(predicted[best] < cut)))
        left.append(float(np.mean(predicted >= cut)))
    return missed, left, min(1.0, size / len(scores))


def groups_of(rows: Sequence[dict[str, Any]], kind: str) -> list[ScoringGroup]:
    chosen = (row for row in rows if row["kind"] == kind)
    return [ScoringGroup(row["image"], row["messages"][:-1], [row["messages"][-1]["content"]]) for row in chosen]


def in_full(scorer: Scorer, groups: Sequence[ScoringGroup]):
    return np.array([math.nan if value is None else value for (value,) in scorer.score(groups)])


def shapes(image_tokens: int = 256, text_tokens: int = 60) -> None:
    """Cost of a first pass for one caption an image."""
    print(f"one caption an image: {image_tokens} image tokens, {text_tokens} text tokens")
    for name, shape in KNOWN.items():
        if not isinstance(shape, VlmShape):
            continue
        whole = vision_flops(shape, image_tokens) + text_flops(shape.text, image_tokens + text_tokens)
        for share in IMAGE_SHARES:
            for depth in DEPTHS:
                layers = math.ceil(depth * shape.text.count)
                some = Layers(layers, shape.text.width, shape.text.mlp, shape.text.key_width, shape.text.gated)
                tokens = int(image_tokens * share)
                cost = (vision_flops(shape, tokens) + text_flops(some, tokens + text_tokens)) / whole
                print(f"{name}: {layers} of {shape.text.count} layers, {100 * share:g} % of image tokens: {cost:.2f}")


def text_flops(layers: Layers, tokens: int) -> float:
    return layer_flops(layers, tokens, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--shapes", action="store_true")
    args = parser.parse_args()
    if args.shapes:
        shapes()
    else:
        measure(args.profile, args.keep, args.seeds)


if __name__ == "__main__":
    main()
