"""A judge that is a model, on a chat server or on this machine, with the five-dimension rubric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel

from rsqa_pipeline.preference_data.candidate import Candidate
from rsqa_pipeline.preference_data.chat.model import ChatModel, ChatModels
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.preference_data.judge import Judge, Judgement, JudgeRequest, truth_judge
from rsqa_pipeline.preference_data.rubric import (
    BadReply,
    MarksReply,
    Verdict,
    comparison_prompt,
    marks_prompt,
    read_marks,
    read_reply,
    rubric_version,
)
from rsqa_pipeline.profile.preference_data import TRUTH_JUDGES, PreferenceData
from rsqa_pipeline.records import Message

TRIES = 3
"""Maximum replies to one prompt until one can be read. The first is greedy. A greedy retry would repeat it, so retries
are sampled at `RETRY_TEMPERATURE`."""
RETRY_TEMPERATURE = 0.7
MAX_REPLY_TOKENS = 512
_RETRY_REASONS = ("unparsable_reply", "wrong_schema", "marks_out_of_range")

Parsed = TypeVar("Parsed")
Prompt = tuple[Message, ...]


class ModelJudge:
    """Marks texts by asking a model that sees the image. It does not know the truth."""

    def __init__(self, model: ChatModel, repetition: int = 0) -> None:
        """
        Args:
            repetition: index of the measurement. A new number bypasses cached replies.
        """
        self.name = f"{model.name} ({model.settings.model}) rubric={rubric_version()}"
        self.model = model
        self._repetition = repetition

    def mark(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        """See `Judge.mark`. Reasons for no marks: ``empty_text``, ``unparsable_reply``, ``wrong_schema``,
        ``marks_out_of_range``, ``judge_unreachable``, ``judge_refused``, or the reason of an `ImageFault`."""
        visible = [request for request in requests if request.text.strip()]
        prompts = [marks_prompt(request.context, request.text) for request in visible]
        results = iter(self._ask(visible, prompts, MarksReply, read_marks))
        empty = Judgement(None, reason="empty_text", detail="the text has no visible character")
        judgements = []
        for request in requests:
            found = next(results) if request.text.strip() else empty
            if not isinstance(found, Judgement):
                found = Judgement(found[0], version=found[1])
            judgements.append(found)
        return judgements

    def prefers_first(self, requests: Sequence[JudgeRequest], rivals: Sequence[str]) -> list[bool | None]:
        """Whether each text, shown before its rival, is called the better one; None if there is no verdict."""
        prompts = [comparison_prompt(r.context, r.text, rival) for r, rival in zip(requests, rivals, strict=True)]
        results = self._ask(requests, prompts, Verdict, lambda text: read_reply(Verdict, text))
        return [None if isinstance(found, Judgement) else found[0].better == "A" for found in results]

    def _ask(
        self,
        requests: Sequence[JudgeRequest],
        prompts: Sequence[Prompt],
        schema: type[BaseModel],
        read: Callable[[str], Parsed],
    ) -> list[tuple[Parsed, str] | Judgement]:
        """Per request: the parsed reply and the model's version, or a judgement without marks that gives the reason."""
        found: dict[int, tuple[Parsed, str] | Judgement] = {}
        waiting = list(range(len(requests)))
        for attempt in range(TRIES):
            asked = [
                ChatRequest(
                    messages=prompts[index],
                    image_id=requests[index].image_id,
                    image=requests[index].image,
                    max_new_tokens=MAX_REPLY_TOKENS,
                    temperature=RETRY_TEMPERATURE if attempt else 0.0,
                    top_p=1.0,
                    schema=schema,
                    draw=self._repetition * TRIES + attempt,
                )
                for index in waiting
            ]
            for index, reply in zip(waiting, self.model.ask(asked), strict=True):
                found[index] = _read(reply, read)
            waiting = [index for index in waiting if _is_bad(found[index])]
        return [found[index] for index in range(len(requests))]


def make_judge(
    settings: PreferenceData,
    models: ChatModels,
    scenes: Mapping[str, int],
    candidates: Sequence[Candidate],
    seed: int,
) -> Judge:
    """The judge that the profile names.

    Args:
        scenes, candidates: see `truth_judge`.
    """
    if settings.judge in TRUTH_JUDGES:
        return truth_judge(settings, scenes, candidates, seed)
    return ModelJudge(models[settings.judge])


def _read(reply: Reply | NoReply, read: Callable[[str], Parsed]) -> tuple[Parsed, str] | Judgement:
    if isinstance(reply, NoReply):
        of_judge = reply.reason in ("unreachable", "refused")
        return Judgement(None, reason=f"judge_{reply.reason}" if of_judge else reply.reason, detail=reply.detail)
    try:
        return read(reply.text), reply.version
    except BadReply as bad:
        return Judgement(None, reason=bad.reason, detail=bad.detail)


def _is_bad(found: tuple[Parsed, str] | Judgement) -> bool:
    return isinstance(found, Judgement) and found.reason in _RETRY_REASONS
