"""The fork server of one agent: loads what workers import, once, and forks.

It opens no device and starts no thread: neither would survive a fork whole.

A fork of a process that has torch loaded is up in some ten milliseconds; a fresh interpreter takes
seconds. Where the system allows it, a worker is forked by a process that ends at once, so that the
agent adopts it: then no worker ends with its fork server. Elsewhere the zygote is the workers'
parent. Whoever is it, alone signals and reaps them, so a process number is never used after it was
freed.

Requests come over the socket whose number is the first argument: 4 bytes of length (with the
worker's three descriptors, for a fork), then one frame. Answers are frames alone. Both stand in
`control.fork_messages`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Sequence

from dougong.accelerators.plugins import without_plugins
from dougong.control.fork_messages import (
    ChildExited,
    Forked,
    ForkFailed,
    ForkRequest,
    KillRequest,
    ServerBroken,
    ServerReady,
    SignalRequest,
    StartServer,
)
from dougong.control.messages import Message, ProtocolError, decode, encode
from dougong.control.processes import (
    die_with_parent,
    kill_group,
    open_pidfd,
    process_state,
    title_process,
)
from dougong.launcher.agent.worker_process import run_child

TITLE = "dougong fork-server"
"""With which the title of its process begins."""
STANDS_BY = "(stands by)"
"""And ends, as long as it has forked nobody."""
LENGTH = struct.Struct("!I")
_NUM_FDS = 3


class Requests:
    """The fork server's end of the socket to its agent."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read(self) -> tuple[Message, list[int]]:
        """The next request and the descriptors that came with it. EOFError when the agent has
        closed its end."""
        header, fds, _, _ = socket.recv_fds(self.socket, LENGTH.size, _NUM_FDS)
        if not header:
            raise EOFError("the agent closed the connection")
        header += self._read_bytes(LENGTH.size - len(header))
        (num_bytes,) = LENGTH.unpack(header)
        return decode(self._read_bytes(num_bytes), "agent"), fds

    def send(self, message: Message) -> None:
        self.socket.sendall(encode(message))

    def _read_bytes(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError("the agent closed the connection in the middle of a request")
            data += piece
        return bytes(data)


class Zygote:
    """Serves requests until the agent's end of the socket closes; then kills what it forked."""

    def __init__(self, requests: Requests, agent: int, start: StartServer) -> None:
        """`agent`: its process id."""
        self._requests = requests
        self._agent, self._is_adopted = agent, start.adopts
        self._title = f"{TITLE} {start.agent}"
        self._has_forked = False
        self._agent_stopped_s = 0.0
        self._deadlines = start.deadlines
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests.socket, selectors.EVENT_READ)
        self._children: dict[int, int | None] = {}  # pid -> pidfd, None where there is none

    def serve(self) -> None:
        try:
            while True:
                looked_at = time.monotonic()
                ready = {key.fileobj for key, _ in self._selector.select(self._poll_s())}
                self._look_at_agent(time.monotonic() - looked_at)
                if self._requests.socket in ready:
                    self._answer()
                self._reap()
        except EOFError:
            pass  # the agent ended
        finally:
            for pid in self._children:
                kill_group(pid)

    def _poll_s(self) -> float:
        """How long to sleep: until the next look where every child's end wakes us."""
        without_pidfd = any(fd is None for fd in self._children.values())
        every_s = self._deadlines.agent_look_every_s
        return self._deadlines.exit_poll_every_s if without_pidfd else every_s

    def _look_at_agent(self, passed_s: float) -> None:
        """An agent that stands stopped for so long has been given up by its controller, or has lost
        it, and cannot see either. Who started it may be dead, so that nobody else would end it. All
        that it has ends with it."""
        if process_state(self._agent) != "T":
            self._agent_stopped_s = 0.0
            return
        # Who looks late was stopped himself, as when somebody stops all there is for a while.
        self._agent_stopped_s += min(passed_s, 2 * self._deadlines.agent_look_every_s)
        limit_s = max(self._deadlines.agent_stopped_s, self._deadlines.agent_silence_s)
        if self._agent_stopped_s > limit_s and os.getppid() == self._agent:
            os.kill(self._agent, signal.SIGKILL)

    def _answer(self) -> None:
        match self._requests.read():
            case ForkRequest() as request, fds:
                self._fork(request, fds)
            case KillRequest(pid), _:
                if pid in self._children:
                    kill_group(pid)
            case SignalRequest(pid, number), _:
                if pid in self._children:
                    os.kill(pid, number)
            case message, _:
                raise ProtocolError(f"agent: {message.kind} is not for a fork server")

    def _fork(self, request: ForkRequest, fds: list[int]) -> None:
        if not self._has_forked:
            self._has_forked = True
            title_process(self._title)
        fork = self._fork_orphan if self._is_adopted else self._fork_child
        try:
            pid = fork(request, fds)
        except OSError as error:
            text = f"the system cannot fork a worker: {error}"
            self._requests.send(ForkFailed(request.number, text))
            return
        finally:
            for fd in fds:  # a child never comes here
                os.close(fd)
        self._requests.send(Forked(request.number, pid))

    def _fork_child(self, request: ForkRequest, fds: list[int]) -> int:
        """A worker whose parent is this process. OSError where there can be none."""
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(request, fds, zygote)
        _lead_group(pid)
        self._watch(pid)
        return pid

    def _fork_orphan(self, request: ForkRequest, fds: list[int]) -> int:
        """A worker whose parent, a process in the middle, has ended when this returns."""
        read_end, write_end = os.pipe()
        middle = os.fork()
        if middle == 0:
            self._fork_and_end(request, fds, (read_end, write_end))
        os.close(write_end)
        with open(read_end, "rb") as told:
            said = told.read().decode()
        os.waitpid(middle, 0)
        if not said.isdecimal():
            raise OSError(said or "the process that was to fork it has ended")
        return int(said)

    def _fork_and_end(self, request: ForkRequest, fds: list[int], pipe: tuple[int, int]) -> None:
        """The life of the process in the middle. Never returns."""
        try:
            middle, pid = os.getpid(), os.fork()
            if pid == 0:
                for end in pipe:
                    os.close(end)
                self._become_child(request, fds, self._agent, middle)
            _lead_group(pid)
            os.write(pipe[1], str(pid).encode())
        except OSError as error:
            os.write(pipe[1], str(error).encode())
        finally:
            os._exit(0)

    def _watch(self, pid: int) -> None:
        pidfd = open_pidfd(pid)
        self._children[pid] = pidfd
        if pidfd is not None:
            self._selector.register(pidfd, selectors.EVENT_READ)

    def _become_child(
        self, request: ForkRequest, fds: list[int], parent: int, middle: int | None = None
    ) -> None:
        """Never returns, whatever happens: a child that came back would be a second zygote.
        `middle`: the process that ends, so that `parent` adopts this one."""
        try:
            os.setpgid(0, 0)
            self._await_end(middle)
            die_with_parent(parent)
            self._selector.close()
            self._requests.socket.close()
            for pidfd in filter(None, self._children.values()):
                os.close(pidfd)
            run_child(request, fds, self._deadlines)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _await_end(self, middle: int | None) -> None:
        """Until another process is our parent than that one, which is about to end."""
        until = time.monotonic() + self._deadlines.exit_status_s
        while os.getppid() == middle and time.monotonic() < until:
            time.sleep(self._deadlines.adoption_every_s)

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
            self._requests.send(ChildExited(pid, os.waitstatus_to_exitcode(status)))


def _lead_group(pid: int) -> None:
    """Make a process the leader of a group of its own. It does the same; whoever is first."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)


def _load(name: str, model_types: Sequence[str]) -> None:
    """A module; of `module:function` the function is called, too."""
    module, _, function = name.partition(":")
    loaded = importlib.import_module(module)
    if function:
        getattr(loaded, function)(model_types)


def main() -> None:
    """`python -m dougong.launcher.agent.fork_server SOCKET_FD PARENT_PID`"""
    agent = int(sys.argv[2])
    die_with_parent(agent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests = Requests(socket.socket(fileno=int(sys.argv[1])))
    start, _ = requests.read()
    assert isinstance(start, StartServer), "the agent's first request"
    title_process(f"{TITLE} {start.agent} {STANDS_BY}")
    try:
        with without_plugins():  # transformers would import one, and ask it for devices
            for name in start.modules:
                _load(name, start.model_types)
    except BaseException:
        requests.send(ServerBroken(traceback.format_exc()))
        raise
    gc.collect()
    gc.freeze()  # the forks share these pages; a collection that touched them would copy them
    requests.send(ServerReady())
    Zygote(requests, agent, start).serve()


if __name__ == "__main__":
    main()
