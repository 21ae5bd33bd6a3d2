"""Toy runs over a real Ray: one of the run's own, and a cluster of two nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dougong.control.environment import child_environment
from tests.families import SMALLEST
from tests.launcher.toyrun import ROOT, ToyRun, toy_job, wait_for

pytestmark = pytest.mark.timeout(300)


def test_a_run_with_a_ray_of_its_own_recovers_and_leaves_nothing(tmp_path: Path) -> None:
    """Without the head of its Ray, from step 3 on: it needs none."""
    job = toy_job(
        drill=[{"at_step": 14, "kill": "east/1"}], islands=[{"name": "east", "accelerator": "cpu", "workers": 5}],
        step_s=0.2,
    )  # fmt: skip
    run = ToyRun(tmp_path / "run", {**job, "batch": {"lanes": 5}}, ["--ray"]).start()
    run.await_step(3)
    (head,) = (pid for pid, words in run.processes().items() if "/gcs_server " in words)
    os.kill(head, signal.SIGKILL)
    assert run.finish(150) == 0, run.text()
    (told,) = run.events("ray")
    assert (told["part"], told["is_lost"], told["generation"]) == ("head", True, 1)
    assert "the head of this run's own Ray has ended; training goes on" in run.text()
    assert [e["worker"] for e in run.events("diagnosis")] == ["east/1"]
    second = [row["step"] for row in run.run_dir.read_metrics() if row["generation"] == 2]
    assert second in (list(range(6, 21)), list(range(11, 21)))  # the checkpoint of step 10 may not have been whole
    for noise in ("FutureWarning", "raylet", "INFO", "SIGTERM handler"):
        assert noise not in run.text()


TWICE = """
from dougong.control.environment import child_environment
from dougong.launcher.backends.ray_cluster import RayBackend
for _ in range(2):
    backend = RayBackend()
    print(backend.open(), len(backend.nodes(["cpu"])), flush=True)
    backend.close()
"""


@pytest.mark.slow
def test_one_process_can_have_a_ray_of_its_own_again() -> None:
    """`dougong calibrate` does. Each has another token."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=ROOT, env=child_environment({}), capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "127.0.0.1 1\n" * 2, done.stderr


def test_nothing_of_an_embedded_ray_survives_the_driver(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=5000, step_s=0.05), ["--ray"]).start()
    run.await_step(2)
    assert any("raylet" in words for words in run.processes().values())
    run.process.send_signal(signal.SIGKILL)
    assert run.finish() == -signal.SIGKILL


def test_a_cluster_that_is_not_there_is_told_in_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    run = ToyRun(tmp_path / "run", toy_job(), ["--address", f"127.0.0.1:{port}"]).start()
    assert run.finish() == 1
    assert f"ray start --head --port={port}" in run.text()


@dataclass
class Cluster:
    """Two Ray nodes on this machine, `alpha` (head) and `beta`, with a token, each a process that we may kill."""

    address: str
    environment: dict[str, str]
    start: Callable[[str, dict[str, str]], None]


def start_node(words: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--include-log-monitor=false"]
    with log.open("w") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True, start_new_session=True
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """`ray start` twice, with own ports and short temporary directories; ended by process group."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    mark = {"DOUGONG_TEST_CLUSTER": secrets.token_hex(8)}
    environment = {**os.environ, **token, **mark, "RAY_enable_metrics_collection": "0"}
    short = Path("/tmp") / f"dg{secrets.token_hex(3)}"
    head = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=1", f"--temp-dir={short}a"]
    nodes = [start_node([*head, "--labels=name=alpha"], environment, tmp_path / "alpha.out")]
    address = f"127.0.0.1:{port}"

    def start(name: str, changes: dict[str, str]) -> None:
        log = tmp_path / f"{name}.out"
        more = [f"--address={address}", "--num-cpus=1", '--resources={"NPU": 2}', f"--labels=name={name}"]
        nodes.append(start_node(more, {**environment, **changes}, log))
        wait_for(lambda: "Ray runtime started" in log.read_text(), f"node {name}", 60)

    try:
        wait_for(lambda: "ray start" in (tmp_path / "alpha.out").read_text(), "the head", 60)
        start("beta", {})
        yield Cluster(address, {**token, **mark}, start)
    finally:
        end_groups(nodes)
        shutil.rmtree(f"{short}a", ignore_errors=True)


def end_groups(nodes: list[subprocess.Popen[str]]) -> None:
    """All at once, politely first, so that nodes do not wait for a head that is gone."""
    for number, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, number)
        deadline = time.monotonic() + patience_s
        for node in nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(max(0.0, deadline - time.monotonic()))


PINNED = [
    {"name": "east", "accelerator": "cpu", "workers": 2, "node": "name=alpha"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "node": "name=beta"},
]


@pytest.mark.slow
def test_a_job_over_two_nodes_with_a_token(tmp_path: Path, cluster: Cluster) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("the brackets join unlike timbers without nails\n" * 400)
    job = toy_job(
        model={"family": "qwen3_moe", "config": SMALLEST},
        data={"text": str(text), "sequence_length": 16},
        batch={"lanes": 3, "microbatches": 1, "microbatch_size": 1},
        steps=6,
        islands=PINNED,
        checkpoint={"every": 2},
        drill=[{"at_step": 5, "kill": "west/0"}],
    )
    flags = ["--address", cluster.address]
    run = ToyRun(tmp_path / "run", job, [*flags, "--train"], {**cluster.environment, "HOME": str(tmp_path)}).start()
    assert run.finish(150) == 0, run.text()
    assert [e["worker"] for e in run.events("diagnosis")] == ["west/0"]
    losses = {(row["generation"], row["step"]): row["loss"] for row in run.run_dir.read_metrics()}
    again = [step for attempt, step in losses if attempt == 2]
    assert again[-1] == 6
    assert all(losses[2, step] == losses[1, step] for step in again if (1, step) in losses)
    agents = run.events("agents_started")[0]["agents"]
    assert sorted(a["agent"] for a in agents) == ["east", "west"]
    assert len({a["ray_node"] for a in agents}) == 2

    nobody = {"HOME": str(tmp_path), **{key: value for key, value in cluster.environment.items() if "TOKEN" not in key}}
    for token, words in (
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token, and there is none here; export RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "another"}, "refuses the token of this shell; export RAY_AUTH_TOKEN="),
    ):
        refused = ToyRun(tmp_path / "token", toy_job(), flags, {**nobody, **token}).start()
        assert refused.finish(60) == 1
        assert f"--address {cluster.address}: the cluster {words}" in refused.text()
        assert "gcs_client.cc" not in refused.text() and "InvalidAuthToken" not in refused.text()
    assert "InvalidAuthToken" in (tmp_path / "token" / "logs" / "ray.log").read_text()

    older = tmp_path / "older" / "transformers-4.57.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.1\n")
    cluster.start("gamma", {"PYTHONPATH": str(older.parent)})
    skewed = [PINNED[0], {**PINNED[1], "node": "name=gamma"}]
    refused = ToyRun(tmp_path / "skewed", toy_job(islands=skewed), flags, cluster.environment).start()
    assert refused.finish(150) == 1
    assert "the nodes differ in transformers; a run needs the same everywhere" in refused.text()
    assert any("(west)" in line and "4.57.1" in line for line in refused.text().splitlines())

    devices = [{"name": "west", "accelerator": "npu", "workers": 5}]
    greedy = toy_job(islands=devices, batch={"lanes": 8})
    refused = ToyRun(tmp_path / "refused", greedy, flags, cluster.environment).start()
    assert refused.finish(150) == 1
    assert "asks for 5 npu workers, one device each, but only 4 devices are free" in refused.text()


@pytest.mark.slow
def test_agents_of_a_cluster_go_over_to_the_next_controller(tmp_path: Path, cluster: Cluster) -> None:
    run = ToyRun(
        tmp_path / "run", toy_job(islands=PINNED, step_s=0.2, steps=40, batch={"lanes": 3}),
        ["--address", cluster.address, "--beside"], {**cluster.environment, "HOME": str(tmp_path)},
    ).start()  # fmt: skip
    run.await_step(7)
    known = run.run_dir.read_controller()
    assert known is not None
    os.kill(known.pid, signal.SIGKILL)
    assert run.finish(150) == 0, run.text()
    before, after = ({a["agent"]: a["pid"] for a in event["agents"]} for event in run.events("agents_started"))
    assert sorted(before) == ["east", "west"] and before == after
    assert not run.events("ray")
