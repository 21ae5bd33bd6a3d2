"""Why an island's devices cannot be had, with every node's numbers and the next step. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.accelerators.registry import get_accelerator
from dougong.errors import NoRoomError
from dougong.job.schema import Island
from dougong.planner.nodes import Node, listed, words_on_quarantine


def too_few_devices(
    island: Island, num_asked: int, left: Sequence[tuple[Node, int]]
) -> NoRoomError:
    """`num_asked`: devices that are still to be found; `left`: how many of each node it can
    have."""
    kind = island.accelerator
    nodes = [node for node, _ in left]
    found = sum(count for _, count in left)
    held = sum(node.count(kind) - node.count_free(kind) for node in nodes)
    workers = "worker" if island.workers == 1 else "workers"
    each = "on one device together" if island.shares_device else "one device each"
    free = {0: "none is free", 1: "only 1 device is free"}.get(
        found, f"only {found} devices are free"
    )
    with_some = [(node, count) for node, count in left if node.count(kind)] or left
    listing = listed([node.words_on(kind, count) for node, count in with_some])
    is_held = num_asked <= found + held
    text = (
        f"island {island.name} asks for {island.workers} {kind} {workers}, {each}, but {free} "
        f"({listing}); {_advice(island, nodes, is_held)}{words_on_quarantine(nodes, kind)}"
    )
    return NoRoomError(text, is_held)


def _advice(island: Island, nodes: Sequence[Node], is_held: bool) -> str:
    name, kind = island.name, island.accelerator
    fewer = [] if island.shares_device else [f"lower islands.{name}.workers"]
    if is_held:
        return ", or ".join(["free what others hold (`ray status`)", *fewer])
    if any(node.count(kind) for node in nodes):
        return " or ".join([*fewer, "add nodes"])
    missing = get_accelerator(kind).missing()
    advice = f"add nodes that have some, or use another islands.{name}.accelerator"
    return advice + (f" (on this machine {missing})" if missing else "")
