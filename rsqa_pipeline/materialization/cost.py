"""What making an output costs: processor time and peak memory of this process while it computes."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLEAR_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@contextmanager
def measured_cost(facts: dict[str, str]) -> Iterator[None]:
    """Adds to ``facts``, when the block ends without an error:

    - ``cpu_seconds``: of all threads, and of child processes that ended meanwhile;
    - ``peak_memory_mib``: greatest resident memory of this process during the block. Left out where the system cannot
      measure a part of a process's life (it needs Linux);
    - ``peak_gpu_memory_mib``: greatest memory that torch's tensors took on the GPU; only where a GPU was used.
    """
    before, peak_starts_here = _cpu_seconds(), _clear_peak()
    torch = sys.modules.get("torch")  # not imported for this: most assets do without
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    yield
    facts["cpu_seconds"] = f"{_cpu_seconds() - before:.1f}"
    if peak_starts_here:
        facts["peak_memory_mib"] = str(_peak_memory() // 2**20)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        facts["peak_gpu_memory_mib"] = str(torch.cuda.max_memory_allocated() // 2**20)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _clear_peak() -> bool:
    """Lets the kernel's peak of this process start again from zero; False where it has none that does."""
    try:
        _CLEAR_PEAK.write_text("5")
    except OSError:
        return False
    return True


def _peak_memory() -> int:
    """Bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
