"""An agent's part in the trial of the paths between machines: it can be tried, and it tries."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import psutil

from dougong.addresses import Ports, show_address
from dougong.control.channel import Channel, UnreachableError, connect
from dougong.control.environment import chosen_interface
from dougong.control.handshake import AgentFacts
from dougong.control.network.neighbours import Neighbours
from dougong.control.network.path_probe import PathListener, try_paths
from dougong.control.path_messages import Hearing, PathEnd, PathsOpen, PathsTried, TryPaths
from dougong.control.processes import interface_of
from dougong.errors import LaunchError
from dougong.launcher.agent.settings import AgentSettings

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE = (32768, 60999)
_CHOOSE = "or fewer: name them in the job file, `ports: 20000-20100`"


def reach_controller(settings: AgentSettings, facts: AgentFacts) -> Channel:
    """The agent's connection to its controller. UnreachableError says in one line who does not
    reach whom, and what to open."""
    try:
        return connect(settings.controller, settings.token, facts, settings.deadlines)
    except UnreachableError as error:
        host, port = settings.controller
        first, last = _ports_of(settings.ports)
        chosen = "`ports` of the job" if settings.ports is not None else _CHOOSE
        waited = settings.deadlines.words("agent_connect_s")
        why = error.__cause__
        reason = f"no answer within {waited}" if isinstance(why, TimeoutError) else str(why)
        raise UnreachableError(
            f"{socket.gethostname()} ({source_address(host)}) does not reach the controller at "
            f"{show_address(host, port)}: {reason}; open the TCP ports {first}-{last} of {host} "
            f"to {source_address(host)} ({chosen})"
        ) from error


def source_address(host: str) -> str:
    """This machine's address on its way to `host`; its name where no way leads there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))  # nothing is sent
            return str(sock.getsockname()[0])
    except OSError:
        return socket.gethostname()


class AgentPaths:
    """Open for tries from the first moment to `close`: in a recovery a new agent tries those that
    have long been at work. `address`: from which this machine's workers speak."""

    def __init__(self, settings: AgentSettings, controller: Channel) -> None:
        """Says to the controller where it can be tried. LaunchError where it cannot be."""
        self._controller, self._settings = controller, settings
        self.address = workers_address(controller.local_address)
        ports = settings.ports
        self._listener = PathListener(self.address, settings.token, ports, settings.deadlines)
        self._neighbours = Neighbours(settings.name, self._listener.address, settings.token)
        controller.send(PathsOpen(describe_end(settings.name, self._listener.address, ports)))

    @property
    def hearing(self) -> Hearing:
        """What is heard of the other machines."""
        return self._neighbours.hearing

    def answer(self, asked: TryPaths) -> None:
        """Try in a thread of its own, and tell the controller what came of it."""
        self._neighbours.know(asked.ends)
        threading.Thread(target=self._try, args=(asked,), daemon=True).start()

    def close(self) -> None:
        """Be there no more."""
        self._listener.close()
        self._neighbours.close()

    def _try(self, asked: TryPaths) -> None:
        results = try_paths(asked, self._settings.token, self._settings.deadlines)
        with contextlib.suppress(OSError):  # the agent's own loop hears of the loss
            self._controller.send(PathsTried(asked.number, results))


def workers_address(local_address: str) -> str:
    """The address of the interface over which this machine's workers will speak: the one that leads
    to the controller (`local_address`), unless the user has chosen another.

    LaunchError where the chosen one is not there, or has no address.
    """
    chosen = chosen_interface()
    if chosen is None:
        return local_address
    addresses = psutil.net_if_addrs()
    found = []
    for entry in addresses.get(chosen, []):
        if entry.family in (socket.AF_INET, socket.AF_INET6):
            found.append(entry.address.partition("%")[0])
    if not found:
        have = ", ".join(sorted(addresses))
        raise LaunchError(
            f"GLOO_SOCKET_IFNAME={chosen}: {socket.gethostname()} has no such interface with an "
            f"address; it has: {have}; set another before `ray start` there, or leave it out"
        )
    # Of several, one of the family in which the controller is spoken to.
    found.sort(key=lambda address: (":" in address) != (":" in local_address))
    return found[0]


def describe_end(name: str, address: tuple[str, int], ports: Ports | None) -> PathEnd:
    """This machine's end of the paths to it, and what an advice about it needs."""
    host, port = address
    interface = interface_of(host)
    stats = psutil.net_if_stats().get(interface) if interface is not None else None
    return PathEnd(
        name=name,
        machine=socket.gethostname(),
        host=host,
        port=port,
        interface=interface,
        mtu=stats.mtu if stats is not None else None,
        ports=_ports_of(ports),
        are_chosen=ports is not None,
    )


def _ports_of(ports: Ports | None) -> tuple[int, int]:
    return system_range() if ports is None else (ports.first, ports.last)


def system_range(file: Path = _PORT_RANGE) -> tuple[int, int]:
    """First and last of the ports from which the system chooses; Linux's defaults where it does not
    say."""
    try:
        first, last = map(int, file.read_text().split())
    except (OSError, ValueError):
        return _USUAL_RANGE
    return first, last
