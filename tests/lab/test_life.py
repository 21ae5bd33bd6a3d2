"""The life of runs on one cluster: two at once, one after a failed one, seen and stopped from any node; and what is
left of each: nothing."""

from __future__ import annotations

import json
import re
import signal

import pytest
from tests.lab.conftest import Cluster
from tests.launcher.toyrun import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("fresh_runs")]

# What Ray holds, as its own tables have it: placement groups that are not removed, actors that are not dead.
HELD = """
import ray
from ray.util import placement_group_table
ray.init(address="auto", log_to_driver=False, logging_level="error")
groups = [group["state"] for group in placement_group_table().values()]
print("groups", sum(state != "REMOVED" for state in groups), "of", len(groups))
actors = ray._private.state.actors()
print("actors", sum(actor["State"] != "DEAD" for actor in actors.values()), "of", len(actors))
free = ray.available_resources()
print("free", free.get("CPU") == ray.cluster_resources()["CPU"])
"""


def left(cluster: Cluster) -> tuple[str, list[str]]:
    """What Ray still holds, and processes of runs on any host."""
    ray = cluster.hosts[2].run(["python", "-c", HELD])
    assert ray.status == 0, ray.output
    words = [one for host in cluster.lab.hosts for one in host.processes().values()]
    return ray.output, [one for one in words if re.search(r"dougong(?!-lab)|AgentActor", one)]


def nothing_is_left(cluster: Cluster) -> None:
    def gone() -> bool:
        ray, processes = left(cluster)
        return "groups 0 of" in ray and "actors 0 of" in ray and "free True" in ray and not processes

    wait_for(gone, f"the end of what the run held: {left(cluster)}", 30)


def test_two_runs_at_once_both_finish(cluster: Cluster) -> None:
    one = cluster.start(cluster.hosts[0], "one")
    two = cluster.start(cluster.hosts[1], "two")
    assert [one.wait(180), two.wait(180)] == [0, 0], one.output + two.output
    assert cluster.losses("one") == cluster.losses("two")
    nothing_is_left(cluster)


def test_after_a_failed_run_the_next_one_has_all_room(cluster: Cluster) -> None:
    drill = {"drill": [{"at_step": 6, "kill": "west/1"}], "fault": {"max_restarts": 0}}
    failed = cluster.run(cluster.hosts[1], "failed", **drill)
    assert failed.status == 1 and "next: dougong resume" in failed.output, failed.output
    assert "node1" in failed.output, "the machine of the worker that died"
    nothing_is_left(cluster)
    assert cluster.run(cluster.hosts[1], "second").status == 0
    nothing_is_left(cluster)
    words = ["dougong", "resume", str(cluster.run_dir("failed")), "--address", "auto", "-o", "drill=[]"]
    resumed = cluster.hosts[2].run(words, timeout_s=120)
    assert resumed.status == 0, resumed.output
    assert cluster.losses("failed") == cluster.losses("second")


def test_after_a_killed_run_nothing_is_left_and_it_goes_on(cluster: Cluster) -> None:
    run = cluster.start(cluster.hosts[1], "killed", steps=400, checkpoint={"every": 4})
    cluster.await_step("killed", 10, run)
    run.signal(signal.SIGKILL)
    assert run.wait(30) == -signal.SIGKILL
    nothing_is_left(cluster)
    steps = len(cluster.losses("killed")) + 2
    words = ["dougong", "resume", str(cluster.run_dir("killed")), "--address", "auto", "-o", f"steps={steps}"]
    resumed = cluster.hosts[2].run(words, timeout_s=120)
    assert resumed.status == 0, resumed.output
    nothing_is_left(cluster)


def test_a_run_is_seen_and_stopped_from_everywhere(cluster: Cluster) -> None:
    """From a node, and from a machine outside the cluster that sees the run's directory."""
    directory = str(cluster.run_dir("seen"))
    run = cluster.start(cluster.hosts[0], "seen", steps=4000)
    cluster.await_step("seen", 3, run)
    for host in (cluster.hosts[2], cluster.outside):
        assert "step" in host.check(["dougong", "status", directory])
        status = json.loads(host.check(["dougong", "status", directory, "--json"]))
        assert status["state"] == "RUNNING"
        assert host.run(["dougong", "logs", directory, "west/1"]).status == 0
    refused = cluster.hosts[1].run(["dougong", "resume", directory, "--address", "auto"])
    assert refused.status == 3 and "node0" in refused.output, refused.output
    again = cluster.hosts[1].run(cluster.words("seen"))
    assert again.status in (2, 3), again.output
    assert (cluster.run_dir("seen") / "lease" / "1.address").stat().st_mode & 0o777 == 0o600
    stopped = cluster.outside.run(["dougong", "stop", directory], timeout_s=60)
    assert stopped.status == 0, stopped.output
    assert run.wait(60) == 130, run.output
    nothing_is_left(cluster)
    last = cluster.losses("seen")
    words = ["dougong", "resume", directory, "--address", "auto", "-o", f"steps={len(last) + 2}"]
    resumed = cluster.hosts[1].run(words, timeout_s=120)
    assert resumed.status == 0, resumed.output
    assert len(cluster.losses("seen")) == len(last) + 2


def test_ctrl_c_and_sigterm_end_a_run_in_order(cluster: Cluster) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        name = f"asked-{number}"
        run = cluster.start(cluster.hosts[1], name, steps=4000)
        cluster.await_step(name, 3, run)
        run.signal(number)
        assert run.wait(60) == status, run.output
        assert "stopped at step" in run.output
    nothing_is_left(cluster)
