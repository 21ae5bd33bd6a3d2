"""What a process may take of its machine."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from dougong.control.processes import free_memory_bytes, memory_bytes
from dougong.launcher.agent.here.limits import find_limits


def test_the_limits_are_those_of_this_process() -> None:
    limits = find_limits()
    assert limits.cpus is not None and 1 <= limits.cpus <= len(os.sched_getaffinity(0))
    assert limits.free_memory_bytes is not None and 0 < limits.free_memory_bytes <= memory_bytes()
    assert free_memory_bytes() > 0
    assert limits.shared_memory_bytes is not None


def test_a_lowered_limit_is_found_and_none_is_none() -> None:
    text = (
        "import resource\n"
        "from dougong.launcher.agent.here.limits import find_limits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (123, 123))\n"
        "print(find_limits().open_files)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["123"]
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    expected = None if soft == resource.RLIM_INFINITY else soft
    assert find_limits().locked_memory_bytes == expected
