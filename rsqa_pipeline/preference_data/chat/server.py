"""Asks an OpenAI-compatible chat server, with rate limit, retries while it is busy, and a budget."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential
from tqdm import tqdm

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.images.decode import ImageFault
from rsqa_pipeline.preference_data.chat.bounded_post import BoundedPost, Response, TooLarge
from rsqa_pipeline.preference_data.chat.budget import Budget, Pace
from rsqa_pipeline.preference_data.chat.completion import UncountedTokens, UnreadableBody, read_completion, request_body
from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.profile.preference_data import ChatServer

MAX_FAILED_PROMPTS = 10
"""Prompts in a row without a reply, each tried ``tries`` times, before the run fails: the server is down, not busy."""
MAX_BACKOFF = 60.0
"""Seconds between two tries if the server does not send Retry-After."""
MAX_RETRY_AFTER = 600.0
"""Seconds. A longer Retry-After is cut to this."""
_WRONG_SETTINGS = {401: "the key", 403: "the key's rights", 404: "url and model", 405: "url"}


class ServerError(RsqaError):
    """The server cannot be used with the profile's settings. Every reply bought so far is kept."""


class _Busy(Exception):
    """The request may be tried again."""

    def __init__(self, detail: str, hold: float | None = None) -> None:
        self.hold = hold
        """Seconds to wait, as requested by the server."""
        super().__init__(detail)


class _Refused(Exception):
    """The server will not answer this prompt."""


class ServerModel:
    """A model behind a chat server."""

    def __init__(self, name: str, model: str, server: ChatServer) -> None:
        """
        Raises:
            ServerError: the environment variable of the API key is not set.
        """
        self.identity = model
        self._name, self._server = name, server
        self._key = ""
        if server.api_key_env is not None:
            self._key = os.environ.get(server.api_key_env, "")
            if not self._key:
                raise ServerError(
                    f"model {name}: the environment variable {server.api_key_env} is not set; it must hold the key "
                    f"for {server.url}"
                )
        self._address = server.url.rstrip("/") + "/chat/completions"
        self._stop = threading.Event()
        self._pace = Pace(server.requests_per_minute, self._stop)
        self._failed_in_a_row = 0
        self._lock = threading.Lock()

    def answer(self, requests: Mapping[str, ChatRequest], log: ReplyLog) -> dict[str, NoReply]:
        """Asks for the replies that are not in the log and logs each one as it arrives; see `ModelBackend.answer`.

        Raises:
            BudgetError: a cap is reached. ServerError: the settings are wrong, or the server is down.
        """
        waiting = {key: request for key, request in requests.items() if key not in log}
        if not waiting:
            return {}
        self._stop.clear()
        self._failed_in_a_row = 0
        budget = Budget(self._name, self._server, log.spent(self.identity))
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        faults: dict[str, NoReply] = {}
        with (
            # Created before the first request, so that its setup does not compete with the first replies for the CPU.
            tqdm(desc=self._name, total=len(waiting), unit="reply", disable=len(waiting) < 50) as bar,
            BoundedPost(headers, self._server.concurrency, self._server.timeout_seconds) as client,
            ThreadPoolExecutor(self._server.concurrency, thread_name_prefix=self._name) as pool,
        ):
            asked = {
                pool.submit(self._answer_one, client, key, request, log, budget): key
                for key, request in waiting.items()
            }
            try:
                for done in as_completed(asked):
                    bar.update()
                    fault = done.result()
                    if fault is not None:
                        faults[asked[done]] = fault
            except BaseException:
                # Requests in flight are paid for: their replies are still received and logged. No new request is sent.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return faults

    def _answer_one(
        self, client: BoundedPost, key: str, request: ChatRequest, log: ReplyLog, budget: Budget
    ) -> NoReply | None:
        try:
            body = request_body(self.identity, request)
        except ImageFault as fault:
            return NoReply(fault.reason, fault.detail)
        tries = Retrying(
            retry=retry_if_exception_type(_Busy),
            stop=stop_after_attempt(self._server.tries) | stop_when_event_set(self._stop),
            wait=_wait,
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        try:
            reply = tries(self._ask_once, client, body, key, log, budget)
        except _Busy as error:
            return self._failed(NoReply("unreachable", str(error)))
        except _Refused as error:
            return self._failed(NoReply("refused", str(error)))
        log.append(key, self.identity, reply)
        budget.use(reply.input_tokens + reply.output_tokens)
        with self._lock:
            self._failed_in_a_row = 0
        return None

    def _failed(self, fault: NoReply) -> NoReply:
        """Counts a prompt without a reply; raises ServerError after too many in a row."""
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= MAX_FAILED_PROMPTS and not self._stop.is_set():
                raise ServerError(
                    f"model {self._name}: {self._failed_in_a_row} prompts in a row got no reply from "
                    f"{self._address}; the last: {fault.reason}, {fault.detail}. Every reply so far is kept; run again "
                    "when the server is back"
                )
        return fault

    def _ask_once(self, client: BoundedPost, body: dict[str, object], key: str, log: ReplyLog, budget: Budget) -> Reply:
        """One request. Raises _Busy, _Refused, BudgetError or ServerError."""
        self._pace.wait()
        if self._stop.is_set():
            raise _Busy("the run was being stopped")
        budget.reserve()
        try:
            # A gateway that supports this header resends a reply that was lost in a kill instead of billing a new one.
            response = client.post(self._address, body, {"Idempotency-Key": key})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            budget.give_back()
            raise _Busy(f"no connection to {self._address}: {error}") from error
        except TimeoutError as error:  # the server may have answered and billed, here and below
            log.append_lost(key, self.identity)
            seconds = self._server.timeout_seconds
            raise _Busy(f"no complete reply from {self._address} within {seconds:g} s") from error
        except (httpx.TransportError, TooLarge) as error:
            log.append_lost(key, self.identity)
            raise _Busy(f"{type(error).__name__} from {self._address}: {error}") from error
        if response.status != httpx.codes.OK:
            budget.give_back()
            self._refuse(response)
        try:
            reply = read_completion(response.body, self.identity, self._server.max_tokens is not None)
        except UnreadableBody as error:
            log.append_lost(key, self.identity)
            raise _Busy(self._without_key(str(error))) from error
        except UncountedTokens as error:
            log.append_lost(key, self.identity)
            raise ServerError(
                f"model {self._name}: {self._address} does not report token counts, so max_tokens cannot be enforced; "
                "set max_calls instead"
            ) from error
        return replace(reply, text=self._without_key(reply.text), version=self._without_key(reply.version))

    def _refuse(self, response: Response) -> None:
        """Raises the error for a response other than 200."""
        code = response.status
        detail = self._without_key(f"HTTP {code} from {self._address}: {response.start}")
        if code in (408, 409, 425, 429) or code >= 500:
            hold = _retry_after(response)
            if hold is not None:
                self._pace.hold(hold)
            raise _Busy(detail, hold)
        if code in _WRONG_SETTINGS or code < 400:
            raise ServerError(
                f"model {self._name}: {detail}. Check {_WRONG_SETTINGS.get(code, 'url')} in "
                f"preference_data.models.{self._name}"
            )
        raise _Refused(detail)

    def _without_key(self, text: str) -> str:
        """Removes the API key: servers quote a wrong key in errors, and it must not get into a log."""
        return text.replace(self._key, "***") if self._key else text


_backoff = wait_random_exponential(multiplier=0.5, max=MAX_BACKOFF)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try; 0 if the pace already delays it."""
    error = state.outcome.exception() if state.outcome else None
    return 0.0 if isinstance(error, _Busy) and error.hold is not None else _backoff(state)


def _retry_after(response: Response) -> float | None:
    """Seconds to wait by the Retry-After header, which holds seconds or a date; None if it is missing or invalid."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None
