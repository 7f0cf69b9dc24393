"""The server's token: where it comes from, and whether a request shows it."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets

from rsqa_pipeline.errors import UsageError

TOKEN_VARIABLE = "RSQA_REWARD_TOKEN"
MIN_TOKEN = 16
"""Characters of a token from the environment."""


def read_token() -> tuple[str, bool]:
    """The token of the environment, or a new one; and whether it is new.

    Raises:
        UsageError: the environment's token is shorter than `MIN_TOKEN`, or has characters that no header can carry.
    """
    found = os.environ.get(TOKEN_VARIABLE)
    if found is None:
        return secrets.token_urlsafe(32), True
    if len(found) < MIN_TOKEN or not found.isascii() or not found.isprintable() or found != found.strip():
        raise UsageError(
            f"{TOKEN_VARIABLE} must have at least {MIN_TOKEN} printable ASCII characters, without spaces at its ends; "
            "unset it to have a token made"
        )
    return found, False


def authorized(header: str | None, token: str) -> bool:
    """Whether an Authorization header shows the token: ``Bearer TOKEN``, or ``Basic`` with the token as password.

    HTTP clients send Basic for a URL like ``http://rsqa:TOKEN@127.0.0.1:8000``, which serves frameworks that let one
    set a URL only. The comparison takes the same time wherever the two differ.
    """
    scheme, _, shown = (header or "").partition(" ")
    if scheme.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown.encode(), token.encode())
