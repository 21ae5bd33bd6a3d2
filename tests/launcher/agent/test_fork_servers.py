"""The processes that an agent has adopted; tests/launcher/agent/test_agent.py has fork servers that are lost."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys

import pytest
from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.launcher.agent import fork_servers
from dougong.launcher.agent.fork_servers import AdoptedProcesses
from tests.launcher.toyrun import wait_for


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_ends_are_seen_once_and_with_their_codes(has_pidfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_pidfd:
        monkeypatch.setattr(fork_servers, "open_pidfd", lambda pid: None)
    ended: list[tuple[int, int]] = []
    selector = selectors.DefaultSelector()
    adopted = AdoptedProcesses(selector, lambda pid, code: ended.append((pid, code)))
    processes = []  # one that nobody refers to is waited for by the next Popen
    for words in ("import sys; sys.exit(3)", "import signal; signal.pause()"):
        processes.append(subprocess.Popen([sys.executable, "-c", words], start_new_session=True))
        adopted.watch(processes[-1].pid)
    pids = [process.pid for process in processes]
    wait_for(lambda: adopted.reap() or ended, "the first one has ended", 20)
    assert ended == [(pids[0], 3)]
    adopted.kill(pids[0])  # it has ended: nobody
    adopted.signal(pids[0], signal.SIGKILL)
    adopted.kill(pids[1])
    wait_for(lambda: adopted.reap() or len(ended) == 2, "the second one", 20)
    assert ended[1] == (pids[1], -signal.SIGKILL)
    adopted.close(DEADLINES)


def test_closing_ends_all_of_them() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    adopted = AdoptedProcesses(selectors.DefaultSelector(), lambda pid, code: None)
    adopted.watch(process.pid)
    adopted.close(DEADLINES)
    assert not process_exists(process.pid)
    with pytest.raises(ChildProcessError):  # nor is it left as a zombie
        os.waitpid(process.pid, 0)
