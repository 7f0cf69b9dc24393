"""What git knows of the checkout, if there is a git and a checkout."""

from __future__ import annotations

import subprocess


def ask_git(*words: str) -> str | None:
    """Output of a git command; None without a git program, outside a checkout, or if it fails."""
    try:
        reply = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return reply.stdout.strip() if reply.returncode == 0 else None


def commit() -> str:
    """The commit that is checked out, or ``unknown``."""
    return ask_git("rev-parse", "HEAD") or "unknown"
