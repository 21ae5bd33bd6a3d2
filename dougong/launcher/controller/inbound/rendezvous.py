"""The key-value store over which the workers of a generation find each other; it lives in a process
of its own beside the controller.

There it outlives every generation (each has its own prefix), and no worker's death takes it away.
It is torch's, which looks up the name of everybody who connects before it serves the next one: a
dead name server would hold a generation up for seconds a worker. Only a process that never asked
can be told to ask none (RES_OPTIONS is read once), and the controller has asked for the cluster's
head. What torch prints there is in a log.

    python -m dougong.launcher.controller.inbound.rendezvous LISTENER_FD PARENT_PID

is that process: it says `ready`, then serves until it is killed, or its controller ends.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from dougong.addresses import show_address
from dougong.control.environment import child_environment
from dougong.control.processes import die_with_parent
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.records.files import last_line

_READY = "ready\n"
_NO_NAME_SERVER = {"RES_OPTIONS": "attempts:0"}  # resolver(3)


class RendezvousStore:
    """A torch.distributed TCPStore that listens on one interface only, until `close`.

    `address`: host and port. It ends with the thread that made it, if not before.
    """

    def __init__(self, listener: socket.socket, log: Path, deadlines: Deadlines) -> None:
        """`listener`: its socket, which may have listened before, so that the path to it could be
        tried; it is taken over. `log`: what the library prints. `await_ready` says when it
        serves."""
        host, port = listener.getsockname()[:2]
        self.address: tuple[str, int] = (str(host), int(port))
        self._deadlines = deadlines
        self._log = log
        with listener:
            self._process = _spawn(listener.fileno(), log)

    def await_ready(self) -> None:
        """Until it serves. LaunchError when it has ended instead, or is not there within
        `agents_ready_s`: it imports what workers import."""
        out = self._process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], self._deadlines.agents_ready_s)
        if not ready:
            raise self._failed(f"is not there after {self._deadlines.words('agents_ready_s')}")
        if out.readline() != _READY:
            status = self._process.wait(self._deadlines.kill_s)
            raise self._failed(f"ended with status {status}: {_last_words(self._log)}")

    def check(self) -> None:
        """LaunchError when it has ended: nobody could meet there any more."""
        status = self._process.poll()
        if status is not None:
            raise self._failed(f"has ended with status {status}")

    def close(self) -> None:
        """End the process, if it has not ended: it keeps nothing. Once this returns it is gone."""
        self._process.kill()
        self._process.wait(self._deadlines.kill_s)

    def _failed(self, what: str) -> LaunchError:
        place = show_address(*self.address)
        return LaunchError(f"the store where workers meet, at {place}, {what}; see {self._log}")


def _spawn(listener: int, log: Path) -> subprocess.Popen[str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    module = "dougong.launcher.controller.inbound.rendezvous"
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(listener), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=child_environment(_NO_NAME_SERVER),
            pass_fds=[listener],
            start_new_session=True,  # Ctrl-C is the controller's
        )


def _last_words(log: Path) -> str:
    last = last_line(log)
    if last is None:
        return "its log cannot be read"
    return last or "it printed nothing"


def main(listener: int, parent: int) -> None:
    """Serve on the listening socket for ever."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = socket.socket(fileno=os.dup(listener)).getsockname()[:2]
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener)
    sys.stdout.write(_READY)
    sys.stdout.flush()
    while store is not None:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
