"""Observations of nodes that are alike and sound, to be changed in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dougong.control.handshake import MachineLimits, PackageCode
from dougong.control.path_messages import PathEnd, PathResult
from dougong.doctor.ask.demand import Demand, DoctorRequest
from dougong.doctor.ask.observations import ClockFacts, Observations, Viewpoint
from dougong.doctor.facts import (
    DeviceSpeed,
    FolderFacts,
    KindFacts,
    LinkAnswer,
    NetworkFacts,
    NodeFacts,
    Post,
    SpeedAnswer,
    StoreAnswer,
)
from dougong.fingerprint.record import Fingerprint
from dougong.planner.agreement import Software
from dougong.planner.nodes import Node

GIB = 1 << 30
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "ray": "2.60.0", "triton": "not installed"}
CODE = {"dougong": PackageCode("/opt/dougong", {"dougong": "aa", "dougong/ops": "bb"})}


def title(number: int) -> str:
    return f"node{number} (10.0.0.{number + 1})"


def node_facts(number: int) -> NodeFacts:
    return NodeFacts(
        host=f"node{number}",
        machine=f"boot{number}",
        versions=dict(VERSIONS),
        code=dict(CODE),
        limits=MachineLimits(8, 64 * GIB, 60 * GIB, 65536, None, 16 * GIB, None),
        devices=(KindFacts("cpu", None, "EPYC"),),
        network=NetworkFacts(f"10.0.0.{number + 1}", "eth0", 1500, 10000),
        folder=FolderFacts("/shared", 100 * GIB, 200 * GIB, 10**6, "nfs4 nas:/x"),
        shared_memory_free=16 * GIB,
        wants_token=True,
    )


def prints(bits: str = "aa") -> dict[str, Any]:
    return Fingerprint({"product": bits}, "question", {"cpu": "EPYC"}).to_json()


def sound(num_nodes: int = 3, quick: bool = False, **changes: Any) -> Observations:
    """node0 is where the command was typed."""
    names = [f"n{number}" for number in range(num_nodes)]
    nodes = {name: Node(name, f"node{i}", f"10.0.0.{i + 1}", {}) for i, name in enumerate(names)}
    posts = {name: (Post("cpu", "cpu", 1),) for name in names}
    ends = {name: PathEnd(name, f"node{i}", f"10.0.0.{i + 1}", 40000, "eth0", 1500, (32768, 60999), False)
            for i, name in enumerate(names)}  # fmt: skip
    paths = {name: tuple(PathResult(o, 40000, "passes", "") for o in names if o != name) for name in names}
    links = {(a, b): LinkAnswer(1e-4, 1e9, 1.1e9) for i, a in enumerate(names) for b in names[i + 1 :]}
    made = Observations(
        request=DoctorRequest(None, quick, "/shared/runs"),
        place=Viewpoint("10.0.0.1", "token", Software("node0", dict(VERSIONS), dict(CODE))),
        nodes=nodes,
        demand=Demand(posts),
        facts={name: node_facts(i) for i, name in enumerate(names)},
        clocks=dict.fromkeys(names, ClockFacts(0.01, 0.002)),
        ends=ends,
        paths=paths,
        speeds={name: SpeedAnswer((speed(),)) for name in names},
        stores=dict.fromkeys(names, StoreAnswer(1e9, 2e9)),
        links=links if num_nodes > 1 else {},
    )
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def speed(matmul: float = 1e11, memory: float = 1e10, bits: str = "aa", **changes: Any) -> DeviceSpeed:
    made = DeviceSpeed("cpu", 0, "EPYC", matmul, memory, 0.99, prints(bits))
    return replace(made, **changes)


def with_speeds(found: Observations, speeds: Mapping[str, DeviceSpeed]) -> Observations:
    found.speeds |= {name: SpeedAnswer((one,)) for name, one in speeds.items()}
    return found


def with_facts(found: Observations, name: str, **changes: Any) -> Observations:
    """`found` with other facts of one node."""
    found.facts[name] = replace(found.facts[name], **changes)
    return found
