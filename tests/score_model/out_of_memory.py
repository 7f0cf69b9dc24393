"""Scores in a process whose memory is limited once the model is loaded. Run by test_scorer_memory.py.

Prints the results as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer

HEADROOM = 96 << 20
"""Bytes that scoring may allocate beyond what the process already holds."""


def main() -> None:
    folder, image, large = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    processor = QwenVLProcessor.from_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": 16**2, "longest_edge": 2000**2}
    model = ScoreModel.from_base(str(folder))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    texts = [f"a red field {n} seen from above " * 4 for n in range(60)]
    groups = [
        ScoringGroup(image, [], texts),
        ScoringGroup(large, [], ["a red field"]),
        ScoringGroup(None, [], ["red field " * 20_000]),
    ]
    careful = Scorer(model, processor, 4096, "test", batch_tokens=500)
    expected = careful.score(groups[:1])
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + HEADROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))
    greedy = Scorer(model, processor, 1_000_000, "test", batch_tokens=1_000_000)
    found = greedy.score_or_reason(groups)
    print(json.dumps({"expected": expected, "found": [[asdict(score) for score in of_group] for of_group in found]}))


if __name__ == "__main__":
    main()
