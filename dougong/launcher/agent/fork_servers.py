"""An agent's fork servers, of which one forks and one stands by, and the processes that they have
forked.

A fork server that ends takes no worker with it, where the agent is the parent of what was forked:
the one that stands by forks the next ones. It is started when training has lasted a while, so that
no start and no short run waits for its imports.
"""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from dougong.control.fork_messages import (
    Forked,
    ForkFailed,
    ForkRequest,
    ServerBroken,
    ServerReady,
    StartServer,
)
from dougong.control.messages import Message
from dougong.control.processes import kill_group, open_pidfd
from dougong.control.progress import ForkServerSigns
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.child import read_messages
from dougong.launcher.agent.fork_client import ForkServer

_MOST_UNREADY = 3
"""So many in a row end before they are ready: a further one would, too."""


class AdoptedProcesses:
    """Processes whose parent this one has become. `ended(pid, code)`: one of them has ended; the
    code is an exit status, negative for a signal."""

    def __init__(self, selector: selectors.BaseSelector, ended: Callable[[int, int], None]) -> None:
        self._selector, self._ended = selector, ended
        self._fds: dict[int, int | None] = {}  # pid -> pidfd, None where there is none

    def watch(self, pid: int) -> None:
        """This one is ours from now on."""
        fd = open_pidfd(pid)
        self._fds[pid] = fd
        if fd is not None:
            self._selector.register(fd, selectors.EVENT_READ, self.reap)

    def kill(self, pid: int) -> None:
        """SIGKILL it and what it started. No error when it has ended."""
        if pid in self._fds:  # else its number may be another one's by now
            kill_group(pid)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to it alone. No error when it has ended."""
        if pid in self._fds:
            os.kill(pid, number)

    def reap(self) -> None:
        """Look which have ended."""
        for pid, fd in list(self._fds.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            kill_group(pid)  # what it started; its own number is not free before the next line
            _, status = os.waitpid(pid, 0)
            del self._fds[pid]
            if fd is not None:
                self._selector.unregister(fd)
                os.close(fd)
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def let_go(self, pids: Collection[int]) -> None:
        """These live on, and are watched here no more."""
        for pid in pids:
            fd = self._fds.pop(pid)
            if fd is not None:
                self._selector.unregister(fd)
                os.close(fd)

    def close(self, deadlines: Deadlines) -> None:
        """End all of them. Who is stuck in the kernel is left behind."""
        for pid, fd in self._fds.items():
            kill_group(pid)
            if fd is not None:
                self._selector.unregister(fd)
                os.close(fd)
        until = time.monotonic() + deadlines.exit_status_s
        while self._fds and time.monotonic() < until:
            for pid in list(self._fds):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self._fds[pid]
            time.sleep(deadlines.exit_poll_every_s if self._fds else 0)
        self._fds.clear()


class LoadedServer:
    """A fork server that goes over from one controller's work to the next one's, with what it has
    loaded. `is_kept`: whether there is one."""

    def __init__(self) -> None:
        self._kept: ForkServer | None = None

    @property
    def is_kept(self) -> bool:
        return self._kept is not None

    def keep(self, server: ForkServer) -> None:
        """One that has loaded all and owes no answer."""
        self._kept = server

    def start(
        self, variables: Mapping[str, str], start: StartServer, cwd: Path | None
    ) -> ForkServer:
        """The one that is kept, where a new one would be the same; else a new one."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.beginning == (dict(variables), start, cwd):
            return kept
        if kept is not None:
            kept.close()
        return ForkServer(variables, start, cwd)

    def close(self) -> None:
        """End it."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None


class ForkServers:
    """What an agent asks to fork. `note(message)`: the one that forks has said something;
    `replaced(why, hung)`: it has ended, or was ended as it hung, and the other one forks from now
    on; `failed(why)`: there is none that could.

    `start`: begins one. `adopted`: the processes, None where their parent is the fork server.
    """

    def __init__(
        self,
        start: Callable[[], ForkServer],
        adopted: AdoptedProcesses | None,
        selector: selectors.BaseSelector,
        note: Callable[[Message], None],
        replaced: Callable[[str, ForkServerSigns | None], None],
        failed: Callable[[str], None],
    ) -> None:
        self._start, self._adopted, self._selector = start, adopted, selector
        self._note, self._replaced, self._failed = note, replaced, failed
        self._was_ready = False
        self._num_unready = 0  # that have ended so, since one was ready
        self._active = self._begin()
        self._standby: ForkServer | None = None
        self._trains_since: float | None = None

    @property
    def pid(self) -> int:
        """Of the one that forks."""
        return self._active.pid

    @property
    def can_fork(self) -> bool:
        """Whether it can at once, rather than when it has imported what workers need."""
        return self._active.is_ready

    @property
    def signs(self) -> ForkServerSigns:
        """How the one that forks is. Nobody needs the one that stands by: what becomes of that is
        in our log."""
        return self._active.signs

    def fork(self, request: ForkRequest, fds: Sequence[int]) -> None:
        """Ask for one worker. The caller still owns the descriptors."""
        try:
            self._active.fork(request, fds)
        except OSError:  # it has ended a moment ago
            self._replace()
            self._active.fork(request, fds)

    def kill(self, pid: int) -> None:
        """SIGKILL a worker and what it started. No error when it has ended."""
        (self._adopted or self._active).kill(pid)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a worker alone. No error when it has ended."""
        (self._adopted or self._active).signal(pid, number)

    def tick(self, is_training: bool, now: float, deadlines: Deadlines) -> None:
        """Call ten times a second. Gives up one that does not do its work, and starts the second
        one when training has lasted a while."""
        self._watch(now, deadlines)
        if self._adopted is None or self._standby is not None or not is_training:
            return
        if self._trains_since is None:
            self._trains_since = now
        elif now - self._trains_since > deadlines.second_fork_server_s:
            self._trains_since = now  # another try, if this one fails, comes after as long
            self._stand_by()

    def _watch(self, now: float, deadlines: Deadlines) -> None:
        """A fork server that hangs is as good as lost: it would hold up whoever needs a worker.
        One that is the workers' parent would take them with it."""
        for server in (self._active, self._standby):
            if self._adopted is None or server is None or server.hung is not None:
                continue
            if server.look(now).since_s > deadlines.hang_s:
                server.give_up()

    def tell_ready(self) -> None:
        """Say so of one that was ready before."""
        if self._active.is_ready and not self._was_ready:
            self._pass_on(ServerReady())

    def close(self, deadlines: Deadlines, loaded: LoadedServer | None = None) -> None:
        """End the workers that are ours, and the fork servers. `loaded`: takes over the one that
        forks."""
        if self._adopted is not None:
            self._adopted.close(deadlines)
        if loaded is not None and self._active.is_ready:
            self._selector.unregister(self._active.channel)
            loaded.keep(self._active)
        else:
            self._active.close()
        if self._standby is not None:
            self._standby.close()

    def _begin(self) -> ForkServer:
        server = self._start()
        read = selectors.EVENT_READ
        self._selector.register(server.channel, read, lambda: self._hear(server))
        return server

    def _stand_by(self) -> None:
        try:
            self._standby = self._begin()
        except LaunchError as error:
            _print(f"no second fork server: {error}")

    def _hear(self, server: ForkServer) -> None:
        try:
            messages = read_messages(server.channel, _print)
        except (OSError, EOFError):
            self._lose(server)
            return
        for message in messages:
            if isinstance(message, ServerReady):
                server.is_ready, self._num_unready = True, 0
            if server is self._active:
                self._pass_on(message)
            elif isinstance(message, ServerBroken):
                _print(f"the second fork server cannot import what workers need: {message.text}")

    def _pass_on(self, message: Message) -> None:
        match message:
            case ServerReady() if self._was_ready:
                return  # one that was needed before it was ready; that the agent is, is known
            case ServerReady():
                self._was_ready = True
            case ForkFailed():
                self._active.num_asked -= 1
            case Forked(_, pid):
                self._active.num_asked -= 1
                if self._adopted is not None:
                    self._adopted.watch(pid)
        self._note(message)

    def _lose(self, server: ForkServer) -> None:
        if server is self._active:
            self._replace()
            return
        self._end(server)
        self._standby = None
        _print(f"the second {server.exit_text()}")

    def _end(self, server: ForkServer) -> None:
        self._selector.unregister(server.channel)
        server.close()

    def _replace(self) -> None:
        """The one that forks has ended: the other one takes its place, or one that has yet to
        import what it needs. What is asked of it waits for that."""
        lost, why = self._active, self._active.exit_text()
        self._end(lost)
        self._num_unready += not lost.is_ready
        if self._adopted is None or self._num_unready >= _MOST_UNREADY:
            self._failed(why)
            return
        try:
            self._active = self._standby or self._begin()
        except LaunchError as error:
            self._failed(f"{why}; {error}")
            return
        self._standby = None
        self._replaced(why, lost.hung)


def _print(text: str) -> None:
    print(f"agent: {text}", file=sys.stderr, flush=True)
