"""The process beside an agent that reads the health of its devices: a message for each look.

`python -m dougong.launcher.agent.device_reader KIND SOCKET PARENT`. A driver's call may hang or
bring its process down, so that nothing else happens here. It ends with its agent.
"""

from __future__ import annotations

import socket
import sys

from dougong.accelerators.base import Accelerator, visible_readings
from dougong.accelerators.registry import get_accelerator
from dougong.accelerators.telemetry.reading import Telemetry
from dougong.control.environment import read_visible_devices
from dougong.control.messages import DevicesRead, encode
from dougong.control.processes import die_with_parent, title_process
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError


def main(arguments: list[str]) -> int:
    """0: nothing tells of these devices."""
    kind, line, parent = arguments
    die_with_parent(int(parent))
    title_process("dougong devices")
    with socket.socket(fileno=int(line)) as agent:
        try:
            return _serve(get_accelerator(kind), agent)
        except DeviceError as error:
            agent.sendall(encode(DevicesRead(problem=str(error))))
            return 1
        except OSError:
            return 1  # the agent is gone


def _serve(accelerator: Accelerator, agent: socket.socket) -> int:
    telemetry = accelerator.telemetry()
    if telemetry is None:
        return 0
    try:
        while True:
            agent.sendall(encode(read_once(accelerator, telemetry, DEADLINES.telemetry_every_s)))
    finally:
        telemetry.close()


def read_once(accelerator: Accelerator, telemetry: Telemetry, wait_s: float) -> DevicesRead:
    """One look, by the names that workers have for the devices."""
    variable = accelerator.visible_devices_variable
    visible = read_visible_devices(variable) if variable else None
    found = visible_readings(telemetry.read(wait_s), visible)
    named = {f"{accelerator.name}:{number}": reading for number, reading in found.items()}
    return DevicesRead(named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
