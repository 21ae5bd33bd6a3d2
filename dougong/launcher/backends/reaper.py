"""Ends processes that are not our children once we are gone, however we end: a small process that
watches a pipe.

A run's own Ray needs it. Its raylet dies with the driver, but the raylet's two helpers, which see
that at once, then try for a minute to report it to a control store that has died too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dougong.control.environment import child_environment
from dougong.control.processes import open_pidfd
from dougong.deadlines import DEADLINES, Deadlines
from dougong.launcher.backends.ray_folder import remove_folder


@contextlib.contextmanager
def ended_with_us(
    pids: Sequence[int], deadlines: Deadlines, folder: Path | None = None
) -> Iterator[None]:
    """The processes are killed and the `folder` of their Ray is removed when the context ends, or
    this process, even by SIGKILL. No error where one is gone.

    A system without pidfd leaves them to themselves: a number alone may belong to somebody else by
    then.
    """
    fds = [fd for fd in map(open_pidfd, pids) if fd is not None]
    command = [sys.executable, "-m", "dougong.launcher.backends.reaper", str(folder or "")]
    command += map(str, fds)
    try:
        reaper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            env=child_environment({}),
            pass_fds=fds,
            start_new_session=True,  # Ctrl-C is for the driver
        )
    finally:
        for fd in fds:
            os.close(fd)
    try:
        yield
    finally:
        reaper.communicate(timeout=deadlines.kill_s)


def main(folder: Path | None, fds: Sequence[int], deadlines: Deadlines = DEADLINES) -> None:
    """Wait for the pipe's end, then kill what the descriptors stand for; they never stand for
    another process."""
    sys.stdin.buffer.read()
    for fd in fds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    deadline = time.monotonic() + deadlines.agent_end_s
    while folder is not None and folder.exists() and time.monotonic() < deadline:
        remove_folder(folder)  # the rest of that Ray may still be writing its last lines
        time.sleep(deadlines.poll_every_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1] else None, [int(word) for word in sys.argv[2:]])
