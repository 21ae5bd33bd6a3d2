"""The process in which a backend's calls are made; its calls: test_proxy.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from dougong.control.environment import child_environment
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.process.line import BackendLine
from dougong.launcher.backends.process.messages import BackendSetup, NodesCall, OpenAnswer, OpenCall
from dougong.launcher.backends.ray_choice import OWN_RAY
from tests.launcher.backends.process.fake import ENTRY
from tests.launcher.toyrun import wait_for


def test_it_ends_with_its_line_also_while_a_call_hangs(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "dougong.launcher.backends.process.serve", str(theirs.fileno())]
    process = subprocess.Popen(command, env=child_environment({}), pass_fds=[theirs.fileno()])
    theirs.close()
    line = BackendLine(ours, 5)
    line.send(BackendSetup(ENTRY, OWN_RAY, DEADLINES, str(tmp_path), os.getpid(), ()))
    line.send(OpenCall(1))
    assert line.receive() == OpenAnswer(1, "10.0.0.1")
    line.send(NodesCall(2, ("hangs",)))
    wait_for((tmp_path / "hangs").exists, "the call is under way", 20)
    line.close()
    assert process.wait(10) == 1
