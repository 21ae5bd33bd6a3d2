"""Whether a job's ports are enough for what is to listen on each machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.addresses import (
    HIGHEST_PORT,
    OF_CONTROLLER,
    PER_AGENT,
    PER_WORKER,
    Ports,
    num_needed,
)
from dougong.errors import LaunchError
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec


def check_ports(
    ports: Ports | None, specs: Sequence[AgentSpec], nodes: Sequence[Node], host: str
) -> None:
    """LaunchError when these are too few for the agents and workers of a node, with the number that
    it needs. `host`: the controller's address; None of `ports`: the system chooses."""
    if ports is None:
        return
    short = sorted(_short_nodes(ports, specs, nodes, host), reverse=True)
    if not short:
        return
    most = max(number for number, _ in short)
    raise LaunchError(
        f"ports {ports} are {len(ports)}: too few for {'; '.join(words for _, words in short)}; "
        f"widen `ports` (or DOUGONG_PORTS) to {most} or more, such as "
        f"{_widened(ports, most)}, or lower islands.*.workers"
    )


def _short_nodes(
    ports: Ports, specs: Sequence[AgentSpec], nodes: Sequence[Node], host: str
) -> Iterator[tuple[int, str]]:
    """Each node that needs more than there are: how many, and in words."""
    for node in nodes:
        # An agent without a node is one of a backend with a single node.
        here = [spec for spec in specs if spec.node in (node.id, None)]
        workers = sum(spec.num_places for spec in here)
        has_controller = node.address == host
        needed = num_needed(workers, len(here), has_controller)
        if needed > len(ports):
            words = f"{node.name}, which needs {needed}: {PER_WORKER} for each of {workers} workers"
            words += f", {PER_AGENT} for each of {len(here)} agents"
            words += f", {OF_CONTROLLER} for the controller" if has_controller else ""
            yield needed, words


def _widened(ports: Ports, most: int) -> Ports:
    """As many ports as are needed, where these begin, or end."""
    if ports.first + most - 1 <= HIGHEST_PORT:
        return Ports(ports.first, ports.first + most - 1)
    return Ports(ports.last - most + 1, ports.last)
