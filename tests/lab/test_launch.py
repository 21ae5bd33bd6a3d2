"""Runs as docs/launch.md launches them: Slurm's script with stand-ins for its commands, and `ray job submit`."""

from __future__ import annotations

import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dougong.testing import Host, Lab, RayCluster
from tests.lab.conftest import Cluster
from tests.lab.slurm import Slurm

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "launch" / "slurm.sbatch"
TWO = [
    {"name": name, "accelerator": "cpu", "workers": 1, "node": node} for name, node in (("a", "node0"), ("b", "node1"))
]
DASHBOARD = "http://10.0.0.1:8265"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts, on which no Ray runs."""
    with Lab(num_hosts=3) as lab:
        yield lab


def within(seconds: float, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def kill_ray(hosts: list[Host]) -> None:
    for host in hosts:
        host.kill_ray()


def test_a_slurm_job_saves_before_its_time_is_over_and_goes_on_when_it_is_queued_again(lab: Lab) -> None:
    cluster = Cluster(lab, RayCluster("none"))
    job, run = cluster.job("slurm", islands=TWO, steps=60), cluster.run_dir("slurm")
    cluster.job("alone", steps=60, islands=[{"name": "a", "accelerator": "cpu", "workers": 3}])
    slurm = Slurm(lab, lab.hosts[:2])
    with slurm.serving():
        first = slurm.start(SCRIPT, str(job), str(run))
        within(240, lambda: run.is_dir() and len(cluster.losses("slurm")) > 3, "no step")
        first.signal(signal.SIGTERM)
        assert first.wait(240) == 130, first.output
        stopped_at = len(cluster.losses("slurm"))
        assert 3 < stopped_at < 60
        assert slurm.num_requeued() == 1
        again = slurm.start(SCRIPT, str(job), str(run))
        assert again.wait(300) == 0, again.output
    assert f"training again at step {stopped_at + 1}" in again.output
    assert slurm.num_requeued() == 1
    alone = ["dougong", "run", str(lab.shared / "alone.yaml"), "--no-ray", "--run-dir", str(cluster.run_dir("alone"))]
    done = lab.hosts[2].run(alone, timeout_s=120)
    assert done.status == 0, done.output
    assert cluster.losses("slurm") == cluster.losses("alone")
    kill_ray(lab.hosts)


def test_a_submitted_job_is_typed_as_it_was_told_and_saves_when_it_is_stopped(lab: Lab) -> None:
    head, node, outside = lab.hosts
    start = ["ray", "start", "--disable-usage-stats", "--object-store-memory=80000000"]
    head.check(
        [*start, "--head", "--port=6379", f"--node-ip-address={head.address}", f"--dashboard-host={head.address}"]
    )
    node.check([*start, "--address=10.0.0.1:6379", f"--node-ip-address={node.address}"])
    cluster = Cluster(lab, RayCluster("10.0.0.1:6379"))
    cluster.job("typed", islands=TWO)
    refused = outside.run(cluster.words("typed"), timeout_s=60)
    assert refused.status == 1
    told = re.search(r"or submit it: `(ray job submit .*)`", refused.output)
    assert told is not None, refused.output
    words = shlex.split(told[1])
    assert words[:5] == ["ray", "job", "submit", "--address", DASHBOARD]
    done = outside.run(words, timeout_s=200)
    assert done.status == 0, done.output
    assert "joins the Ray cluster 10.0.0.1:6379, to which this job was submitted" in done.output
    assert len(cluster.losses("typed")) == 8

    run, job = cluster.run_dir("stopped"), cluster.job("stopped", islands=TWO, steps=2000)
    submit = ["ray", "job", "submit", "--address", DASHBOARD, "--no-wait", "--submission-id", "first",
              "--runtime-env-json", '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "100"}}',
              "--", "dougong", "start", str(job), "--run-dir", str(run)]  # fmt: skip
    outside.check(submit, timeout_s=100)
    within(120, lambda: run.is_dir() and len(cluster.losses("stopped")) > 3, "no step")
    outside.check(["ray", "job", "stop", "--address", DASHBOARD, "first"], timeout_s=150)
    (ended,) = cluster.events("stopped", "stopped")
    assert ended["step"] == len(cluster.losses("stopped"))
    assert cluster.events("stopped", "checkpoint_committed")[-1]["step"] == ended["step"]
    again = head.run(["dougong", "start", str(job), "--run-dir", str(run), "--address", "auto",
                      "-o", f"steps={ended['step'] + 2}"], timeout_s=120)  # fmt: skip
    assert again.status == 0, again.output
    kill_ray([head, node])
