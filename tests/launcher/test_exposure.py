"""What a run shows to others on its machine and its network: who listens, who may knock, what is read from a terminal.

`docs/security.md` promises what is held here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.families import config_values
from tests.flood import end, flood
from tests.launcher.test_run import dougong
from tests.launcher.toyrun import ROOT, ToyRun, toy_job


def test_thousands_of_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    """Neither the look whether the run is alive, nor `stop`; the record says it in a few lines."""
    run = ToyRun(tmp_path / "run", toy_job(steps=50_000, step_s=0.05)).start()
    run.await_step(2)
    known = run.run_dir.read_controller()
    assert known is not None
    with flood((known.host, known.port), 2000) as strangers:
        assert json.loads(dougong("status", "--json", str(run.path)).stdout)["state"] == "RUNNING"
        assert dougong("resume", str(run.path)).returncode == 3
        stopped = dougong("stop", str(run.path))
        assert end(strangers) > 2000
    assert stopped.returncode == 0 and stopped.stdout.startswith("stopped at step"), stopped.stderr
    assert run.finish() == 130, run.text()
    assert not run.events("failure_diagnosed") and len(run.events("generation_started")) == 1
    told = [event["text"] for event in run.events("warning")]
    assert told[0] == "127.0.0.1: too many unproven connections at once"
    assert len(told) < 8


OWN_ROLES = {"dougong controller": "controller", "dougong agent": "agent", "dougong worker": "worker"}
RAY_ROLES = {
    "/gcs_server": "gcs_server", "/raylet/raylet": "raylet", "backends.process.serve": "driver",
    "ray::AgentActor": "actor", "ray::dougong": "agent", "ray::": "ray helper", "/ray/": "ray helper",
}  # fmt: skip


def role_of(words: str) -> str:
    return next((role for sign, role in (OWN_ROLES | RAY_ROLES).items() if sign in words), words)


def listeners(run: ToyRun) -> set[tuple[str, str, str]]:
    """Role, protocol and address of whatever of the run may be spoken to, by the kernel's own tables."""
    found = set()
    for pid, words in run.processes().items():
        with contextlib.suppress(psutil.Error):
            found |= {(role_of(words), *place) for place in listening(psutil.Process(pid))}
    return found


def listening(process: psutil.Process) -> Iterator[tuple[str, str]]:
    for entry in process.net_connections("inet"):
        is_udp = entry.type == socket.SOCK_DGRAM
        if entry.laddr and (is_udp or entry.status == psutil.CONN_LISTEN):
            yield "udp" if is_udp else "tcp", entry.laddr.ip


def test_what_is_not_in_the_table_is_seen() -> None:
    me = psutil.Process()
    with socket.create_server(("127.0.0.2", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.3", 0))
        assert {("tcp", "127.0.0.2"), ("udp", "127.0.0.3")} <= set(listening(me))
    assert not {("tcp", "127.0.0.2"), ("udp", "127.0.0.3")} & set(listening(me))
    assert (role_of("python a_server_of_ours.py"), "tcp") not in table()


def table() -> dict[tuple[str, str], str]:
    """Of docs/security.md: which runs have such a listener."""
    rows = re.findall(r"^\| `([a-z_ ]+)` \| (tcp|udp) \| (all|Ray) \|", (ROOT / "docs/security.md").read_text(), re.M)
    return {(role, protocol): runs for role, protocol, runs in rows}


def trained(**changes: Any) -> dict[str, Any]:
    model = {"family": "qwen3_moe", "config": config_values("qwen3_moe")}
    return toy_job(model=model, data={"text": "stdlib", "sequence_length": 16}, steps=50_000, **changes)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("flags", [(), ("--ray",)], ids=["without Ray", "with its own Ray"])
def test_all_that_listens_is_in_the_table(flags: tuple[str, ...], tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", trained(), ["--train", "--beside", *flags]).start()
    run.await_step(1)
    found = listeners(run)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish(150) == 143, run.text()
    assert {address for _, _, address in found} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    kinds = {(role, protocol) for role, protocol, _ in found}
    expected = {kind for kind, runs in table().items() if runs == "all" or flags}
    helpers = {("ray helper", "tcp")}  # with ray[default] there are more
    assert kinds | helpers == expected | helpers


ASKED = """
import builtins, getpass
def asked(*words, **named):
    print("asked", words, file=open({marker!r}, "a"))
    raise EOFError
builtins.input = getpass.getpass = asked
"""


def test_nobody_is_asked(tmp_path: Path) -> None:
    """Begun from a terminal, whose answers nobody of the run reads, and none is wanted."""
    marker, places = tmp_path / "asked", tmp_path / "places"
    places.mkdir()
    (places / "sitecustomize.py").write_text(ASKED.format(marker=str(marker)))
    paths = os.pathsep.join([str(places), str(ROOT)])
    ours, theirs = os.openpty()
    run = ToyRun(tmp_path / "run", trained(), ["--train", "--beside"], {"PYTHONPATH": paths}, stdin=theirs).start()
    os.close(theirs)
    os.write(ours, b"y\n" * 9)
    run.await_step(1)
    read = {words: os.readlink(f"/proc/{pid}/fd/0") for pid, words in run.processes().items()}
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 143, run.text()
    os.close(ours)
    assert not marker.exists()
    roles = {role_of(words): place for words, place in read.items() if "dougong" in words.split(" ")[0]}
    assert roles.pop("agent").startswith("socket:")  # the line to its controller
    assert {"controller", "worker"} <= set(roles) and set(roles.values()) == {"/dev/null"}


def test_who_asks_is_seen(tmp_path: Path) -> None:
    """The negative control of the test above: its trap goes off."""
    marker = tmp_path / "asked"
    (tmp_path / "sitecustomize.py").write_text(ASKED.format(marker=str(marker)))
    words = [sys.executable, "-c", "input('Do you wish to run the custom code? [y/N] ')"]
    ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(tmp_path)}, input=b"y\n", capture_output=True)
    assert ended.returncode == 1 and "custom code" in marker.read_text()


def test_no_source_asks() -> None:
    asks = re.compile(r"(?<![\w.\"'])input\(|getpass|typer\.(?:confirm|prompt)|click\.(?:confirm|prompt)")
    sources = {path: path.read_text() for path in (ROOT / "dougong").rglob("*.py")}
    assert not [path for path, text in sources.items() if asks.search(text)]
