"""The fork server of one agent: loads what workers import, once, opens no device, starts no thread,
and forks.

A fork of a process that has torch loaded is up in some ten milliseconds; a fresh interpreter takes
seconds. The zygote is the workers' parent: it alone signals and reaps them, so a process number is
never used after it was freed.

Requests come over the socket whose number is the first argument: 4 bytes of length (with the
worker's three descriptors, for a fork), then JSON. Answers are frames of `protocol`: ready, broken,
forked, exit.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from typing import Any

from dougong.control.channel import encode
from dougong.control.processes import die_with_parent, kill_group, open_pidfd
from dougong.launcher.agent.worker_process import run_child

LENGTH = struct.Struct("!I")
_NO_PIDFD_POLL_S = 0.02
_NUM_FDS = 3


class Zygote:
    """Serves requests until the agent's end of the socket closes; then kills what it forked."""

    def __init__(self, request: socket.socket) -> None:
        self._request = request
        self._selector = selectors.DefaultSelector()
        self._selector.register(request, selectors.EVENT_READ)
        self._children: dict[int, int | None] = {}

    def serve(self) -> None:
        try:
            while True:
                ready = {key.fileobj for key, _ in self._selector.select(self._poll_s())}
                if self._request in ready:
                    self._answer()
                self._reap()
        except EOFError:
            pass  # the agent ended
        finally:
            for pid in self._children:
                kill_group(pid)

    def tell(self, kind: str, **fields: Any) -> None:
        self._request.sendall(encode(kind, 0, fields))

    def _poll_s(self) -> float | None:
        return _NO_PIDFD_POLL_S if any(fd is None for fd in self._children.values()) else None

    def _answer(self) -> None:
        header, fds, _, _ = socket.recv_fds(self._request, LENGTH.size, _NUM_FDS)
        header += self._read(LENGTH.size - len(header)) if header else b""
        if not header:
            raise EOFError
        request = json.loads(self._read(LENGTH.unpack(header)[0]))
        if request["do"] == "fork":
            self._fork(request, fds)
        elif request["pid"] in self._children:
            kill_group(request["pid"])

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._request.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _fork(self, request: dict[str, Any], fds: list[int]) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self.tell(
                "unforked", id=request["id"], text=f"the system cannot fork a worker: {error}"
            )
            return
        finally:
            if os.getpid() == zygote:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            self._become_child(request, fds, zygote)
        with contextlib.suppress(
            PermissionError, ProcessLookupError
        ):  # the child does the same; whoever is first
            os.setpgid(pid, pid)
        pidfd = open_pidfd(pid)
        self._children[pid] = pidfd
        if pidfd is not None:
            self._selector.register(pidfd, selectors.EVENT_READ)
        self.tell("forked", id=request["id"], pid=pid)

    def _become_child(self, request: dict[str, Any], fds: list[int], zygote: int) -> None:
        """Never returns, whatever happens: a child that came back would be a second zygote."""
        try:
            os.setpgid(0, 0)
            die_with_parent(zygote)
            self._selector.close()
            self._request.close()
            for pidfd in filter(None, self._children.values()):
                os.close(pidfd)
            run_child(request, fds)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        for pid, fd in list(self._children.items()):
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is None:
                continue
            kill_group(pid)  # what it started; its own number is not free before the next line
            _, status = os.waitpid(pid, 0)
            if fd is not None:
                self._selector.unregister(fd)
                os.close(fd)
            del self._children[pid]
            self.tell("exit", pid=pid, code=os.waitstatus_to_exitcode(status))


def main() -> None:
    """`python -m dougong.launcher.agent.fork_server SOCKET_FD PARENT_PID MODULE...`"""
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    zygote = Zygote(socket.socket(fileno=int(sys.argv[1])))
    try:
        for module in sys.argv[3:]:
            importlib.import_module(module)
    except BaseException:
        zygote.tell("broken", text=traceback.format_exc())
        raise
    gc.collect()
    gc.freeze()  # the forks share these pages; a collection that touched them would copy them
    zygote.tell("ready")
    zygote.serve()


if __name__ == "__main__":
    main()
