"""Devices that agents of a run hold, and of which Ray knows nothing: it has lost its head since
they began, and might give the same ones to others. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dougong.accelerators.registry import get_accelerator
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec


def without_unheld(
    nodes: Sequence[Node], specs: Iterable[AgentSpec], addresses: Mapping[str, str]
) -> list[Node]:
    """The nodes, with no device free of a kind of which such agents (`specs`) use some there: which
    of them Ray would give is not known. `addresses`: of nodes, by the ids that they had then."""
    found = list(nodes)
    for spec in specs:
        if get_accelerator(spec.accelerator).resource is not None:
            address = addresses.get(str(spec.node))
            found = [_taken(n, spec) if n.address == address else n for n in found]
    return found


def _taken(node: Node, spec: AgentSpec) -> Node:
    free = {**(node.devices if node.free is None else node.free), spec.accelerator: 0}
    holder = f"agent {spec.name} of this run, of which this Ray knows nothing"
    return replace(node, free=free, holders=(*node.holders, holder))
