"""An agent that outlives whoever has started it: forked twice, in a session of its own.

Ray ends its actors and what they have started when the node's raylet is gone, or a minute after its
head is. Training needs neither, so the actor that Ray has placed starts the agent in this way and
does no more than hold its devices. What ends the agent is its controller's word, or its silence.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from types import FrameType

from dougong.control.environment import child_environment
from dougong.control.processes import (
    name_process,
    open_pidfd,
    process_exists,
    title_process,
)
from dougong.errors import DougongError, LaunchError, PreemptedError
from dougong.launcher.agent.agent import serve_run
from dougong.launcher.agent.settings import AgentSettings
from dougong.records.directory import RunDir
from dougong.records.files import last_line

_NAME = "ray::dougong"
"""What `ray stop` ends has such a name: who takes Ray from a machine takes its agents too."""


@dataclass(frozen=True)
class AgentEnd:
    """How an agent has ended. `by_controller`: by its controller's word; `error`: what went wrong,
    empty where nothing did."""

    by_controller: bool
    error: str = ""


class DetachedAgent:
    """The starter's side of such an agent. `pid`: of its process."""

    def __init__(self, settings: AgentSettings) -> None:
        """Start it. LaunchError when that is not possible."""
        self._log = RunDir(settings.run_dir).agent_log(settings.name)
        self._deadlines = settings.deadlines
        self._num_bytes = self._log_bytes  # what an earlier life has printed is not this one's
        ours, theirs = socket.socketpair()
        with theirs, ours:
            first = _spawn(settings, theirs.fileno(), self._opened_log(settings))
            self._words = ours.makefile("r")
        # What has been started so ends when it has forked; that is no agent's end.
        first.wait(self._deadlines.agents_join_s)
        said = self._words.readline()
        if not said:
            raise LaunchError(f"its process did not begin{self._last_words()}")
        self.pid = int(said)
        self._fd = open_pidfd(self.pid)

    def wait(self) -> AgentEnd:
        """How it has ended, once it has. LaunchError where it had no time to say so."""
        said = self._words.readline()
        if not said:
            raise LaunchError(
                f"its process (pid {self.pid}) ended without a word{self._last_words()}"
            )
        return AgentEnd(**json.loads(said))

    def kill(self) -> None:
        """SIGKILL: it, its fork server and its workers. No error when it has ended."""
        try:
            if self._fd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        except ProcessLookupError:
            return
        until = time.monotonic() + self._deadlines.kill_s
        while process_exists(self.pid) and time.monotonic() < until:
            time.sleep(self._deadlines.exit_poll_every_s)

    def _opened_log(self, settings: AgentSettings) -> int:
        """Where it prints: next to the logs of its workers; with us where these cannot be."""
        try:
            if RunDir(settings.run_dir).logs.is_dir():  # else it is not this machine's: make none
                self._log.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            pass  # a log that cannot be written is not what stops an agent
        return os.dup(2)

    @property
    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.is_file() else 0

    def _last_words(self) -> str:
        last = last_line(self._log) if self._log_bytes > self._num_bytes else ""
        return f": {last} (all of it: {self._log})" if last else ""


def _spawn(settings: AgentSettings, line: int, log: int) -> subprocess.Popen[str]:
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "dougong.launcher.agent.detached", str(line)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=child_environment({}),
            pass_fds=[line],
        )
    except OSError as error:
        raise LaunchError(f"cannot start {sys.executable}: {error}") from error
    finally:
        os.close(log)
    assert process.stdin is not None
    with process.stdin as stdin:  # not on the command line: it holds the token
        stdin.write(settings.to_json() + "\n")
    return process


def _serve(settings: AgentSettings) -> AgentEnd:
    try:
        return AgentEnd(serve_run(settings))
    except DougongError as error:
        print(f"agent {settings.name}: {error}", file=sys.stderr, flush=True)
        return AgentEnd(False, str(error))


def _end_by_signal(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: its workers are ended now
    raise PreemptedError("SIGTERM: this machine is taken from the run, as by `ray stop`")


def main() -> None:
    """Settings as JSON on standard input; the one argument is the line to the starter."""
    settings = AgentSettings.from_json(sys.stdin.readline())
    if os.fork():
        os._exit(0)
    os.setsid()
    title_process(f"dougong agent {settings.name}")
    name_process(_NAME)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_by_signal)
    line = socket.socket(fileno=int(sys.argv[1]))
    _say(line, str(os.getpid()))
    _say(line, json.dumps(asdict(_serve(settings))))


def _say(line: socket.socket, text: str) -> None:
    try:
        line.sendall(text.encode() + b"\n")
    except OSError:
        return  # the starter is gone: that is no reason to end


if __name__ == "__main__":
    main()
