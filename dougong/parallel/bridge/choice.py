"""Which way bytes take between each two islands of a job. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.bridge_names import AUTO, HOST, bridge_names
from dougong.errors import DeviceError, PlanError
from dougong.parallel.bridge.base import Bridge
from dougong.parallel.bridge.registry import get_bridge
from dougong.parallel.island_paths import IslandPath


@dataclass(frozen=True)
class Shore:
    """An island as a bridge meets it. `computes_on_host`: its tensors lie in host memory;
    `has_library`: its workers speak to each other by a native library."""

    island: str
    accelerator: str
    computes_on_host: bool
    has_library: bool


def choose_paths(shores: Sequence[Shore], bridge: str) -> tuple[IslandPath, ...]:
    """The way between each two, and inside each. `bridge`: the job's.

    Raises DeviceError for a bridge that is not known here or does not load, and PlanError where the
    job names one that does not join two islands that need one.
    """
    pairs = itertools.combinations_with_replacement(shores, 2)
    return tuple(_choose(one, other, bridge) for one, other in pairs)


def _choose(one: Shore, other: Shore, bridge: str) -> IslandPath:
    if one.computes_on_host and other.computes_on_host:
        return IslandPath(one.island, other.island, "host")
    if one == other and one.has_library:
        return IslandPath(one.island, other.island, "native")
    name = _named(one, other, bridge)
    if name == HOST:
        return IslandPath(one.island, other.island, "host-staged")
    return IslandPath(one.island, other.island, "bridge", name)


def _named(one: Shore, other: Shore, bridge: str) -> str:
    """The bridge between two islands that need one."""
    if bridge == AUTO:
        offered = [name for name in bridge_names() if name not in (AUTO, HOST)]
        return next((name for name in offered if _is_of_use(name, one, other)), HOST)
    if not _joins(get_bridge(bridge), one, other):
        raise PlanError(
            f"bridge: {bridge} does not join {one.island} ({one.accelerator}) and {other.island} "
            f"({other.accelerator}); set bridge: auto, which takes it where it does, or bridge: "
            "host, which goes everywhere"
        )
    return bridge


def _is_of_use(name: str, one: Shore, other: Shore) -> bool:
    """Whether a job that names none can take it: what does not load is passed over."""
    try:
        return _joins(get_bridge(name), one, other)
    except DeviceError:
        return False


def _joins(bridge: Bridge, one: Shore, other: Shore) -> bool:
    try:
        return bridge.joins(one.accelerator, other.accelerator)
    except Exception as error:  # whatever another package may raise
        reason = f"{type(error).__name__}: {error}"
        raise DeviceError(
            f"bridge {bridge.name}: it does not say whether it joins {one.accelerator} and "
            f"{other.accelerator} ({reason}); install its package again, or set bridge: host"
        ) from error
