"""Holds a lab's namespaces: a process of its own, which ends them when the lab's process ends,
however that ends.

Everything that runs in a lab lives in one process namespace or below it. When the first process of
a process namespace is killed the kernel kills all others in it, and the namespaces of networks and
mounts, which have no names here, end with their last process. So one SIGKILL ends a lab whole.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from dougong.control.processes import die_with_parent
from dougong.testing.namespaces import SLEEP_AS_FIRST

WATCHED, ALONE = "watched", "alone"

# The first process says its number as this machine counts: in its own namespace it is 1.
SWITCH = f'read -r pid _ < /proc/self/stat; echo "$pid"; {SLEEP_AS_FIRST}'
_NAMESPACES = ["--net", "--pid", "--mount", "--fork", "--kill-child"]


def main(folder: Path, how: str) -> None:
    """Make the namespaces, print the number of their first process, and wait: `watched` until
    standard input ends or SIGTERM comes, `alone` until SIGTERM. Then kill all that lives in them
    and remove the lab's folder."""
    asked_to_end = _sigterm_as_bytes()
    ours = os.getpid()
    maker = subprocess.Popen(
        ["unshare", *_NAMESPACES, "sh", "-c", SWITCH],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: die_with_parent(ours),  # this process has one thread
    )
    assert maker.stdout is not None
    said = maker.stdout.readline()
    if not said:  # `unshare` has printed why
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(1)
    try:
        print(int(said), flush=True)
        select.select([asked_to_end, sys.stdin] if how == WATCHED else [asked_to_end], [], [])
    finally:
        # Nobody waits for this number but `maker`, so that it cannot belong to another by now.
        os.kill(int(said), signal.SIGKILL)
        maker.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _sigterm_as_bytes() -> int:
    """A pipe's end that can be read once SIGTERM came, also where it came before anyone waits:
    `pause`, or a read, that begins after the signal would wait for a second one."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return reader


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
