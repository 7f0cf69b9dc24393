"""Models of the profile, asked through a log: a prompt with a logged reply is not asked again."""

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
    """Answers prompts: a server, or a VLM on this machine."""

    identity: str
    """The model's part of a reply's key: its name on the server, or the hash of its weights."""

    def answer(self, requests: Mapping[str, ChatRequest], log: ReplyLog) -> dict[str, NoReply]:
        """Adds a reply to the log for every prompt without one. Returns the prompts that failed, by key."""


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
        """One reply, or the reason why there is none, per prompt, in order. Equal prompts are asked once.

        Raises:
            BudgetError, ServerError: see `ServerModel`; all replies so far are in the log.
        """
        keys = [request.key(self.identity) for request in requests]
        faults = self._backend.answer(dict(zip(keys, requests, strict=True)), self._log)
        self._used |= dict.fromkeys(key for key in keys if key in self._log)
        return [self._log[key] if key in self._log else faults[key] for key in keys]

    def usage(self) -> Metrics:
        """Number, tokens and price of the replies used since this model was opened, including those bought earlier."""
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
    """The profile's models, opened on first use, with one log per asset."""

    def __init__(self, models: Mapping[str, TextModel], compute: Compute, log_path: Path) -> None:
        self._models, self._compute, self._path = models, compute, log_path
        self._log: ReplyLog | None = None
        self._opened: dict[str, ChatModel] = {}

    @classmethod
    def of(cls, settings: Profile, asset: str) -> ChatModels:
        """Log: ``.rsqa/<profile>/replies/<asset>.jsonl``, outside the scratch folder, which a fresh start empties."""
        path = settings.state / "replies" / f"{asset}.jsonl"
        return cls(settings.preference_data.models, settings.compute, path)

    def __getitem__(self, name: str) -> ChatModel:
        if name not in self._opened:
            settings = self._models[name]
            backend: ModelBackend
            if settings.server is not None:
                backend = ServerModel(name, settings.model, settings.server)
            else:
                # torch and transformers take seconds to import; a run that asks only servers does not need them
                from rsqa_pipeline.preference_data.chat.local import LocalModel

                backend = LocalModel(settings, self._compute)
            if self._log is None:
                self._log = ReplyLog(self._path)
            self._opened[name] = ChatModel(name, settings, backend, self._log)
        return self._opened[name]

    def usage(self) -> Metrics:
        """See `ChatModel.usage`; covers every model asked."""
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
