"""Asks an OpenAI-compatible chat server, patiently: at a pace, again where it is busy, never beyond the budget."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential
from tqdm import tqdm

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.images.decode import ImageFault
from rsqa_pipeline.preference_data.chat.budget import Budget, Pace
from rsqa_pipeline.preference_data.chat.completion import UncountedTokens, UnreadableBody, read_completion, request_body
from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.profile.preference_data import ChatServer

GIVE_UP_AFTER = 10
"""Prompts in a row without a reply, each tried ``tries`` times, before the run ends: the server is down, not busy."""
LONGEST_BACKOFF = 60.0
"""Seconds between two tries where the server does not name a time itself."""
LONGEST_HOLD = 600.0
"""Seconds: a longer Retry-After is not waited for in full."""
_WRONG_SETTINGS = {401: "the key", 403: "the key's rights", 404: "url and model", 405: "url"}


class ServerError(RsqaError):
    """The server cannot be used as the profile says. Every reply bought so far is kept."""


class _Busy(Exception):
    """Worth another try."""

    def __init__(self, detail: str, hold: float | None = None) -> None:
        self.hold = hold
        """Seconds of silence that the server asks for."""
        super().__init__(detail)


class _Refused(Exception):
    """The server will not answer this prompt."""


class ServerModel:
    """A model behind a chat server."""

    def __init__(self, name: str, model: str, server: ChatServer) -> None:
        """
        Raises:
            ServerError: the environment variable of the key is not set.
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
        """Asks for what is not in the log and keeps every reply in it as it comes; see `ModelBackend.answer`.

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
        timeout = httpx.Timeout(self._server.timeout_seconds)
        limits = httpx.Limits(max_connections=self._server.concurrency)
        faults: dict[str, NoReply] = {}
        with (
            # Built before anything is asked, so that its set-up does not compete with the first replies for the CPU.
            tqdm(desc=self._name, total=len(waiting), unit="reply", disable=len(waiting) < 50) as bar,
            httpx.Client(headers=headers, timeout=timeout, limits=limits) as client,
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
                # What is under way is paid for: it still comes in and is kept. Nothing new is asked.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return faults

    def _answer_one(
        self, client: httpx.Client, key: str, request: ChatRequest, log: ReplyLog, budget: Budget
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
            if self._failed_in_a_row >= GIVE_UP_AFTER and not self._stop.is_set():
                raise ServerError(
                    f"model {self._name}: {self._failed_in_a_row} prompts in a row got no reply from "
                    f"{self._address}; the last: {fault.reason}, {fault.detail}. Every reply so far is kept; run again "
                    "when the server is back"
                )
        return fault

    def _ask_once(
        self, client: httpx.Client, body: dict[str, object], key: str, log: ReplyLog, budget: Budget
    ) -> Reply:
        """One request. Raises _Busy, _Refused, BudgetError or ServerError."""
        self._pace.wait()
        if self._stop.is_set():
            raise _Busy("the run was being stopped")
        budget.reserve()
        try:
            # A gateway that knows the header sends a reply that a kill lost once more instead of billing another.
            response = client.post(self._address, json=body, headers={"Idempotency-Key": key})
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            budget.give_back()
            raise _Busy(f"no connection to {self._address}: {error}") from error
        except httpx.TransportError as error:  # cut off or too slow: the server may have answered, and bill it
            log.append_lost(key, self.identity)
            raise _Busy(f"{type(error).__name__} from {self._address}: {error}") from error
        if response.status_code != httpx.codes.OK:
            budget.give_back()
            self._refuse(response)
        try:
            return read_completion(response.content, self.identity, self._server.max_tokens is not None)
        except UnreadableBody as error:
            log.append_lost(key, self.identity)
            raise _Busy(self._without_key(str(error))) from error
        except UncountedTokens as error:
            log.append_lost(key, self.identity)
            raise ServerError(
                f"model {self._name}: {self._address} does not count its tokens, so max_tokens cannot be kept; set "
                "max_calls instead"
            ) from error

    def _refuse(self, response: httpx.Response) -> None:
        """Raises what a response other than 200 means."""
        code = response.status_code
        detail = self._without_key(f"HTTP {code} from {self._address}: {response.text[:300]}")
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
        """Servers quote a wrong key in their error; it must not stand in a log."""
        return text.replace(self._key, "***") if self._key else text


_backoff = wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try; none where the pace holds it back already."""
    error = state.outcome.exception() if state.outcome else None
    return 0.0 if isinstance(error, _Busy) and error.hold is not None else _backoff(state)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the header Retry-After asks to wait, given as such or as a date; None where there is none."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_HOLD) if seconds == seconds else None
