"""A control group's part of a processor: who lives in it is slow, and nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from dougong.testing import LabError, ProcessorGroup

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

# Prints which part of a processor it has had while it counted for a second.
BUSY = """
import time
input()
begun = time.perf_counter()
while time.perf_counter() - begun < 1.0: pass
print(time.process_time() / (time.perf_counter() - begun))
"""


def test_who_lives_in_it_has_no_more_than_its_part() -> None:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        with ProcessorGroup(share=0.1) as group:
            group.adopt([process.pid])
            out, _ = process.communicate("\n", 60)
        assert 0.0 < float(out) < 0.3, "with what it took to begin"
        assert not group.path.exists()
    except LabError as error:
        pytest.fail(f"this machine has no control groups of processors: {error}")
    finally:
        process.kill()
        process.wait()
