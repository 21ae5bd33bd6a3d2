"""An agent against a controller that this test plays: forks, exits, beats, and the controller's disappearance."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from dougong.control.channel import Channel, Message, Server
from dougong.control.environment import child_environment
from dougong.control.processes import process_exists
from dougong.launcher.agent.fork_client import ForkServer
from dougong.launcher.agent.settings import AgentSettings
from dougong.parallel.plan import Inventory, Seat, make_plan
from tests.launcher.toyrun import ROOT, toy_job, wait_for

PRELOAD = ("tests.launcher.entries",)


class Played:
    """The controller's end of one agent process."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.peers: Queue[tuple[Message, Channel]] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), lambda text: None)
        where = str(tmp_path)
        settings = AgentSettings(
            "east", "east", "cpu", 1, True, self.server.address, "secret", where, PRELOAD, where, os.getpid()
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dougong.launcher.agent.agent"],
            stdin=subprocess.PIPE,
            text=True,
            env=child_environment({}),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(settings.to_json() + "\n")
        self.process.stdin.close()
        self.hello, self.channel = self.peers.get(timeout=30)
        self.zygote = self.until("ready")["zygote"]

    def until(self, kind: str, worker: str | None = None) -> Message:
        """The next message of that kind; what comes before it is passed over."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            message = self.channel.receive(30)
            if message["kind"] == kind and worker in (None, message.get("worker")):
                return message
        raise AssertionError(f"no {kind}")

    def fork(self, generation: int, **config: Any) -> dict[str, int]:
        """Start both workers of a toy job; their process numbers."""
        seats = [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)]
        plan = make_plan(4, Inventory("toy", (), (), 16, ()), seats)
        from dougong.job.schema import Job

        request = {
            "task": "train",
            "entry": "tests.launcher.entries:train",
            "job": Job.model_validate(toy_job(steps=5000, step_s=0.02, **config)).model_dump_json(),
            "plan": plan.to_json(),
            "run_dir": str(self.path),
            "resume": None,
            "store": ["127.0.0.1", 1],
            "drills": [],
            "console": "east/0",
        }
        self.channel.send("fork", generation, workers=["east/0", "east/1"], request=request)
        return {name: self.until("forked", name)["pid"] for name in ("east/0", "east/1")}


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    made = Played(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    made.server.close()


def test_the_hello_tells_where_and_with_what(played: Played) -> None:
    assert played.hello["agent"] == "east"
    assert played.hello["sees_run_dir"] is False
    assert {"python", "dougong", "torch", "transformers", "ray"} <= set(played.hello["versions"])
    assert "proof" not in played.hello
    assert "nonce" not in played.hello


def test_workers_step_and_beats_tell_it(played: Played) -> None:
    played.fork(4)
    sequences = []
    while len(sequences) < 3:
        beat = played.until("beat")
        if beat["progress"] and beat["progress"]["east/0"][1] > 2:
            sequences.append(beat["sequence"])
            assert beat["generation"] == 4
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    assert played.until("message", "east/0")["message"]["kind"] in ("step", "part")


def test_a_death_is_told_with_its_signal_and_a_kill_as_asked_for(played: Played) -> None:
    pids = played.fork(1)
    os.kill(pids["east/1"], 11)
    first = played.until("exit", "east/1")
    assert (first["code"], first["asked"], first["generation"]) == (-11, False, 1)
    played.channel.send("kill", 1)
    second = played.until("exit", "east/0")
    assert (second["code"], second["asked"]) == (-9, True)
    assert not any(process_exists(pid) for pid in pids.values())


def test_the_next_generation_is_forked_beside_the_end_of_the_last(played: Played) -> None:
    before = played.fork(1)
    played.channel.send("kill", 1)
    after = played.fork(2)
    assert not set(before.values()) & set(after.values())
    assert all(process_exists(pid) for pid in after.values())
    played.channel.send("kill", 1)
    beat = played.until("beat")
    assert beat["generation"] == 2
    assert all(process_exists(pid) for pid in after.values())


@pytest.mark.parametrize("way", ["close", "exit"])
def test_nothing_outlives_the_controller(played: Played, way: str) -> None:
    pids = [*played.fork(1).values(), played.zygote]
    if way == "close":
        played.channel.close()
    else:
        played.channel.send("exit")
    played.process.wait(15)
    wait_for(lambda: not any(process_exists(pid) for pid in pids), "all are gone", 10)


def test_a_zygote_without_pidfd_sees_exits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without pidfd_open the zygote polls; the same module, told so by a stand-in for `os`."""
    (tmp_path / "sitecustomize.py").write_text("import os\nif hasattr(os, 'pidfd_open'):\n    del os.pidfd_open\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    server = ForkServer({}, PRELOAD, None)
    assert server.channel.receive(30)["kind"] == "ready"
    read_end, write_end = os.pipe()
    from dougong.launcher.agent.child import Child

    child = Child.open("east/0", 1, {"task": "train"}, tmp_path / "x.log")
    server.fork({"id": 1, "task": "no such task", "generation": 1}, child.theirs)
    child.forget_theirs()
    pid = server.channel.receive(30)["pid"]
    exited = server.channel.receive(30)
    assert (exited["kind"], exited["pid"], exited["code"]) == ("exit", pid, 1)
    assert child.channel.receive(10)["type"] == "KeyError"
    server.destroy()
    child.close()
    os.close(read_end)
    os.close(write_end)
