"""A model of the profile, asked through its log: what was said once is never asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.preference_data.chat.server import ServerModel
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.profile.preference_data import TextModel
from rsqa_pipeline.records import Metrics


class ModelBackend(Protocol):
    """What answers prompts: a server, a VLM on this machine."""

    identity: str
    """What a reply's key holds of the model: the server's name for it, or the hash of its weights."""

    def answer(self, requests: Mapping[str, ChatRequest], log: ReplyLog) -> dict[str, NoReply]:
        """Puts a reply to every prompt that has none into the log; returns why the others have none, by key."""


class ChatModel:
    """A named model. Asking it again with the same prompts reads the log."""

    def __init__(self, name: str, settings: TextModel, backend: ModelBackend, log: ReplyLog) -> None:
        self.name, self.settings = name, settings
        self._backend, self._log = backend, log
        self._used: dict[str, None] = {}

    @property
    def identity(self) -> str:
        """See `ModelBackend.identity`."""
        return self._backend.identity

    def ask(self, requests: Sequence[ChatRequest]) -> list[Reply | NoReply]:
        """A reply, or why there is none, to each prompt, in order; the same prompt is asked once.

        Raises:
            BudgetError, ServerError: see `ServerModel`; all replies so far are in the log.
        """
        keys = [request.key(self.identity) for request in requests]
        faults = self._backend.answer(dict(zip(keys, requests, strict=True)), self._log)
        self._used |= dict.fromkeys(key for key in keys if key in self._log)
        return [self._log[key] if key in self._log else faults[key] for key in keys]

    def usage(self) -> Metrics:
        """Replies asked for since this model was opened, their tokens and price, whether bought now or before."""
        replies = [self._log[key] for key in self._used]
        metrics: Metrics = {f"replies/{self.name}": float(len(replies))}
        server = self.settings.server
        if server is not None:
            read, written = sum(r.input_tokens for r in replies), sum(r.output_tokens for r in replies)
            price = read * server.usd_per_million_input_tokens + written * server.usd_per_million_output_tokens
            metrics |= {
                f"input_tokens/{self.name}": float(read),
                f"output_tokens/{self.name}": float(written),
                f"cost_usd/{self.name}": price / 1e6,
            }
        return metrics


class ChatModels:
    """The profile's models, opened as they are asked for, with one log for an asset."""

    def __init__(self, models: Mapping[str, TextModel], compute: Compute, log_path: Path) -> None:
        self._models, self._compute, self._path = models, compute, log_path
        self._log: ReplyLog | None = None
        self._opened: dict[str, ChatModel] = {}

    @classmethod
    def of(cls, settings: Profile, asset: str) -> ChatModels:
        """Log: ``.rsqa/<profile>/replies/<asset>.jsonl``, outside the scratch folder that a new start empties."""
        path = settings.state / "replies" / f"{asset}.jsonl"
        return cls(settings.preference_data.models, settings.compute, path)

    def __getitem__(self, name: str) -> ChatModel:
        if name not in self._opened:
            settings = self._models[name]
            backend: ModelBackend
            if settings.server is not None:
                backend = ServerModel(name, settings.model, settings.server)
            else:
                # torch and transformers take seconds to import; a run that asks servers alone does without
                from rsqa_pipeline.preference_data.chat.local import LocalModel

                backend = LocalModel(settings, self._compute)
            if self._log is None:
                self._log = ReplyLog(self._path)
            self._opened[name] = ChatModel(name, settings, backend, self._log)
        return self._opened[name]

    def usage(self) -> Metrics:
        """See `ChatModel.usage`; of every model asked."""
        metrics: Metrics = {}
        for model in self._opened.values():
            metrics |= model.usage()
        return metrics

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> ChatModels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
