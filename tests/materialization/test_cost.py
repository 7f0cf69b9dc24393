"""What an output cost is that of its own making, not of what the process did before."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsqa_pipeline.materialization.cost import measured_cost

MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a part needs Linux")


def spend(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_processor_time_of_this_process_and_its_children() -> None:
    spend(0.2)
    facts: dict[str, str] = {}
    with measured_cost(facts):
        spend(0.3)
        code = "import time\nwhile time.process_time() < 0.4: pass"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        time.sleep(0.5)  # waiting costs nothing
    assert 0.65 <= float(facts["cpu_seconds"]) < 1.15


@linux
def test_peak_memory_of_the_block_alone() -> None:
    large = bytearray(300 * MIB)
    del large
    small: dict[str, str] = {}
    with measured_cost(small):
        pass
    facts: dict[str, str] = {}
    with measured_cost(facts):
        inner = bytearray(100 * MIB)
        del inner
    gained = int(facts["peak_memory_mib"]) - int(small["peak_memory_mib"])
    assert 80 < gained < 150


def test_an_error_leaves_no_facts() -> None:
    facts: dict[str, str] = {}
    with pytest.raises(ValueError, match="no"), measured_cost(facts):
        raise ValueError("no")
    assert facts == {}
