"""The process that makes assets for a terminal: ``python -m assets.worker PROFILE EVENTS_FD [--force] ASSET...``.

It ends when the process that started it does, however that ends: it watches its standard input, whose other end that
process holds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from rsqa_pipeline.errors import RsqaError, storage_error
from rsqa_pipeline.materialization.progress import report, report_to
from rsqa_pipeline.profile import load_profile

from .launch import launch


def main(words: list[str]) -> int:
    """Makes the assets and reports every step; the exit code of the run."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    name, descriptor, *rest = words
    report_to(int(descriptor))
    force = "--force" in rest
    try:
        result = launch(load_profile(name), name, [word for word in rest if word != "--force"], force)
    except Exception as error:
        known = error if isinstance(error, RsqaError) else storage_error(error)
        if known is None:
            raise
        report("error", message=str(known), code=known.exit_code)
        return known.exit_code
    report("finished", computed=result.computed, unchanged=result.unchanged, recorded=result.recorded)
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)  # the processes that a stage started, too


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
