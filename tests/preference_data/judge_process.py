"""Judges numbered captions in its own process, which a test kills: ``python judge_process.py URL LOG COUNT OUT``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.chat.request import ChatRequest
from rsqa_pipeline.preference_data.judge import JudgeRequest
from rsqa_pipeline.preference_data.model_judge import MAX_REPLY_TOKENS, ModelJudge
from rsqa_pipeline.preference_data.rubric import MarksReply, marks_prompt
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.preference_data import ChatServer, TextModel

CONCURRENCY = 4
MODEL = "gpt-x"


def requests(count: int) -> list[JudgeRequest]:
    return [JudgeRequest(f"{number:064x}", (), f"caption number {number}") for number in range(count)]


def first_key(request: JudgeRequest) -> str:
    """Key in the log of the first reply about a caption."""
    prompt = marks_prompt((), request.text)
    return ChatRequest(prompt, request.image_id, None, MAX_REPLY_TOKENS, 0.0, 1.0, MarksReply).key(MODEL)


def main(url: str, log: Path, count: int, out: Path) -> None:
    settings = TextModel(model=MODEL, server=ChatServer(url=url, concurrency=CONCURRENCY))
    with ChatModels({"gpt": settings}, Compute(device="cpu"), log) as models:
        judged = ModelJudge(models["gpt"]).mark(requests(count))
    out.write_text(json.dumps([asdict(judgement) for judgement in judged]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
