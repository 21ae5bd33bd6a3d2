"""What is known of a run's devices, over the lives of their agents."""

from __future__ import annotations

from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.accelerators.telemetry.xid import xid
from dougong.fault.culprit import Culprit
from dougong.fault.quarantine import QuarantinedDevice
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.inbound.devices import DeviceFacts
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.events import DeviceQuarantined

EAST = AgentHandle(AgentSpec("east", "east", "both", "cuda", 1, 0, 1, node="id"))
GPU = QuarantinedDevice("cuda", "GPU-1", "alpha", "Xid 79")
ASIDE = DeviceQuarantined(generation=1, worker="east/0", accelerator="cuda", key="GPU-1", node="alpha", why="Xid 79")


def test_nodes_are_given_with_what_is_in_quarantine_there() -> None:
    facts = DeviceFacts.of([GPU, QuarantinedDevice("cuda", "GPU-2", "alpha", "Xid 95")], lifted=("GPU-2",))
    alpha, beta = Node("id", "alpha", "10.0.0.1", {"cuda": 2}), Node("other", "beta", "10.0.0.2", {"cuda": 2})
    assert [node.left_out for node in facts.usable([alpha, beta])] == [{"cuda": ("GPU-1",)}, {"cuda": ()}]


def test_an_agent_is_withdrawn_until_it_is_gone_and_its_device_forgotten() -> None:
    facts = DeviceFacts()
    device = Culprit("device", "GPU-1")
    facts.watch.note(device, "east/0", DeviceReading(1, "GPU-1", (xid(79),)), 0.0)
    facts.note_quarantine(ASIDE, EAST)
    assert facts.withdrawn == {"east": "laid out anew without GPU-1 on alpha (Xid 79)"}
    assert facts.quarantine.all == (GPU,) and facts.watch.worker_on(device) is None
    facts.note_lost(EAST)
    assert facts.withdrawn == {}


def test_what_a_device_told_in_an_earlier_life_of_its_agent_is_nobodys() -> None:
    facts = DeviceFacts()
    facts.watch.note(Culprit("device", "GPU-1"), "east/0", DeviceReading(1, "GPU-1", (xid(94),)), 0.0)
    facts.note_lost(EAST)
    assert facts.watch.blame("east/0", 0.0) is None
