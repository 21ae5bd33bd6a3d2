"""What is known of a run's devices: what they have told, and which of them are used no more."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from dougong.fault.devices import DeviceWatch
from dougong.fault.quarantine import Quarantine, QuarantinedDevice
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.planner.nodes import Node
from dougong.records.events import DeviceQuarantined


@dataclass
class DeviceFacts:
    """`watch`: what they have told; `quarantine`: those that are used no more; `withdrawn`: by
    agent, why it must be laid out anew without one."""

    watch: DeviceWatch = field(default_factory=DeviceWatch)
    quarantine: Quarantine = field(default_factory=lambda: Quarantine.of(()))
    withdrawn: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(quarantined: Iterable[QuarantinedDevice], lifted: Collection[str]) -> DeviceFacts:
        """`lifted`: keys of devices that are used again."""
        return DeviceFacts(quarantine=Quarantine.of(quarantined, lifted))

    def note_lost(self, handle: AgentHandle) -> None:
        """An agent is gone: its devices in its next life may be others."""
        self.withdrawn.pop(handle.spec.name, None)
        for worker in handle.spec.workers:
            self.watch.forget(worker)

    def note_quarantine(self, event: DeviceQuarantined, handle: AgentHandle | None) -> None:
        """A device is used no more. `handle`: the agent that has it."""
        self.quarantine.add(event.device)
        self.watch.forget(event.worker)
        if handle is not None:
            self.withdrawn[handle.spec.name] = f"laid out anew without {event.device}"

    def usable(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """The nodes, each with what is in quarantine there."""
        found = []
        for node in nodes:
            left_out = {kind: self.quarantine.on(node.name, kind) for kind in node.devices}
            found.append(replace(node, left_out=left_out))
        return tuple(found)
