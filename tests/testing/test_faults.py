"""What a lab does to a host is done, and taken back."""

from __future__ import annotations

import pytest
from dougong.job.drills.vocabulary import FAULTS
from dougong.testing import Disk, HostFaults, Lab, LabError
from tests.launcher.toyrun import wait_for
from tests.testing.talk import listen, sends

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", ["pull_cable", "drop_in", "drop_out"])
def test_a_host_is_cut_off_and_is_back(lab: Lab, name: str) -> None:
    one, two = lab.hosts
    port = 7100 + len(name)
    listen(two, port, num_connections=3)
    assert sends(one, two.address, port)
    faults = HostFaults(two)
    faults.inflict(name, for_s=60)
    assert not sends(one, two.address, port, timeout_s=0.5)
    faults.undo()
    assert sends(one, two.address, port)


def test_a_fault_ends_by_itself(lab: Lab) -> None:
    one, two = lab.hosts
    listen(two, 7200, num_connections=9)
    HostFaults(two).inflict("pull_cable_short", for_s=0.5)
    assert not sends(one, two.address, 7200, timeout_s=0.2)
    wait_for(lambda: sends(one, two.address, 7200, timeout_s=1), "the cable is back", 10)


def test_a_link_is_slow_and_lossy_and_as_it_was(lab: Lab) -> None:
    one, two = lab.hosts
    faults = HostFaults(two)
    for name in ("slow_link", "lossy_link"):
        faults.inflict(name, for_s=60)
    rules = two.place.net(["iptables-save"])
    assert "--mode random" in rules and "tbf" in two.place.net(["tc", "qdisc", "show", "dev", "eth0"])
    faults.undo()
    assert "--mode random" not in two.place.net(["iptables-save"])
    assert "tbf" not in two.place.net(["tc", "qdisc", "show", "dev", "eth0"])
    assert one.run(["true"]).status == 0


def test_what_a_host_cannot_suffer_is_said(lab: Lab) -> None:
    faults = HostFaults(lab.hosts[0])
    for name in ("fill_checkpoints", "freeze_all_5", "tear_write", "jump_clock", "kill", "nothing"):
        with pytest.raises(LabError):
            faults.inflict(name)


def test_every_fault_of_hosts_is_known_here(lab: Lab) -> None:
    """A name that nobody can do would be drawn and never come."""
    disk = Disk(lab.hosts, lab.shared / "all", 16)
    (lab.shared / "c" / "step-000001").mkdir(parents=True)
    (lab.shared / "c" / "step-000001" / "x").write_bytes(bytes(100))
    done = {"kill_node", "kill_raylet", "kill_head", "jump_clock"}
    for fault in FAULTS:
        if "hosts" in fault.needs and fault.name not in done:
            faults = HostFaults(lab.hosts[0], disk, lab.shared / "c")
            faults.inflict(fault.name, for_s=0.05)
            faults.undo()
