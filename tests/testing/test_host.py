"""A host: its own files where one forgot to mount, a crash, and Ray that starts, stops and dies there alone."""

from __future__ import annotations

import pytest
from dougong.testing import Lab, LabError
from tests.testing.talk import listen, sends

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def test_a_folder_of_its_own_in_place_of_the_shared_one(lab: Lab) -> None:
    one, two = lab.hosts
    runs = lab.shared / "runs"
    runs.mkdir()
    (runs / "old").write_text("old")
    outside = two.own(runs, copied=True)
    (runs / "new").write_text("new")
    assert one.check(["ls", str(runs)]) == "new\nold\n"
    assert two.check(["ls", str(runs)]) == "old\n"
    two.check(["touch", str(runs / "mine")])
    assert sorted(path.name for path in outside.iterdir()) == ["mine", "old"]
    two.give_back(runs)
    assert two.check(["ls", str(runs)]) == "new\nold\n"
    assert not list(two.own(runs).iterdir())
    assert two.check(["ls", str(runs)]) == ""
    two.give_back(runs)


def test_a_folder_that_can_only_be_read_here(lab: Lab) -> None:
    one, two = lab.hosts
    data = lab.shared / "data"
    data.mkdir()
    two.make_read_only(data)
    assert "Read-only file system" in two.run(["touch", str(data / "file")]).output
    assert one.run(["touch", str(data / "file")]).status == 0
    two.give_back(data)
    assert two.run(["touch", str(data / "file")]).status == 0


def test_a_crash_ends_all_in_silence_and_the_host_is_there_again(lab: Lab) -> None:
    one, two = lab.hosts
    server = listen(two, 7000, num_connections=3)
    arrived = lab.bytes_between(two, one)
    two.crash()
    assert server.status is not None
    assert not two.processes()
    assert lab.bytes_between(two, one).num_packets - arrived.num_packets == 0, "nobody hears of it"
    listen(two, 7000)
    assert sends(one, two.address, 7000)


def test_a_host_without_its_cable_is_alone(lab: Lab) -> None:
    one, two = lab.hosts
    listen(two, 7010)
    two.unplug()
    assert not sends(one, two.address, 7010, timeout_s=0.5)
    two.plug()
    assert sends(one, two.address, 7010)


NODES = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="error")
for node in sorted(ray.nodes(), key=lambda node: node["NodeManagerAddress"]):
    print(node["NodeManagerAddress"], node["Alive"], node["Resources"].get("CPU"), node["Resources"].get("NPU"),
          node["Labels"].get("rack"))
"""


@pytest.mark.slow
def test_ray_starts_stops_and_dies_on_a_host_alone(lab: Lab) -> None:
    one, two = lab.hosts
    cluster = lab.start_ray(num_cpus=3, labels=lambda host: {"rack": f"at-{host.name}"})
    assert cluster.address == "10.0.0.1:6379"
    assert one.check(["python", "-c", NODES]).splitlines() == [
        "10.0.0.1 True 3.0 None at-node0",
        "10.0.0.2 True 3.0 None at-node1",
    ]
    two.stop_ray()
    assert not two.processes() and one.processes()
    two.start_ray(cluster, num_cpus=1, resources={"NPU": 2}, labels={"rack": "new"})
    assert "10.0.0.2 True 1.0 2.0 new" in one.check(["python", "-c", NODES])
    bystander = two.start(["sleep", "100"])
    two.kill_ray()
    assert list(two.processes().values()) == ["sleep 100"]
    bystander.end()
    with pytest.raises(LabError, match="node1: `ray start` ended with"):
        two.start_ray(cluster, num_cpus=-1)
    stranger = {"RAY_AUTH_TOKEN": "of-somebody-else"}
    assert two.run(["python", "-c", NODES], env=stranger).status != 0
