"""What a step sends from host to host: the plan, the workers' own counts and the network's counters agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from dougong.testing import Host
from tests.families import config_values
from tests.lab.conftest import PINNED, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

GLOO_BYTES = 3 * 48
"""gloo says of every message that it is ready, at both ends, and then what it is: three heads of 48 bytes (`Op` in its
tcp transport). Two of them go the message's way and one the other; where both ways carry as many, three go each way."""
MOST_APART = 0.03
AFD = [
    {"name": "east", "accelerator": "cpu", "workers": 1, "role": "attention", "node": "10.0.0.1"},
    {"name": "west", "accelerator": "cpu", "workers": 1, "role": "experts", "node": "10.0.0.2"},
    {"name": "south", "accelerator": "cpu", "workers": 1, "role": "experts", "node": "10.0.0.3"},
]


def sized(choices: int) -> dict[str, Any]:
    """About 2 MB a step; every token chooses so many of 8 experts."""
    config = config_values("qwen3_moe") | {"num_experts": 8, "num_experts_per_tok": choices}
    return {
        "model": {"family": "qwen3_moe", "config": config},
        "batch": {"lanes": 4, "microbatches": 2, "microbatch_size": 2},
        "checkpoint": {"every": 0},
    }


@dataclass(frozen=True)
class Amount:
    """Of a step on one link: bytes as planned, as the workers count them, and as the network does, without headers of
    TCP and IP; messages."""

    planned: float
    sent: float
    payload: float
    messages: float


def measure(cluster: Cluster, name: str, steps: int, link: tuple[Host, str, Host, str], **changes: Any) -> list[float]:
    """A run's own bytes, messages and planned bytes on a link, then what the network counted, its start included."""
    source, source_island, target, target_island = link
    before = cluster.lab.bytes_between(source, target)
    done = cluster.run(source, name, steps=steps, **changes)
    assert done.status == 0, done.output
    counted = cluster.lab.bytes_between(source, target) - before
    traffic = cluster.read(name).read_metrics()[-1]["traffic"]
    assert traffic["steps"] == steps
    row = traffic["links"][f"{source_island} > {target_island}"]
    total = [sum(row["sent"].values()), row["messages"], sum(row["planned"].values())]
    return [*(steps * amount for amount in total), counted.payload_bytes]


def a_step(cluster: Cluster, name: str, link: tuple[Host, str, Host, str], **changes: Any) -> Amount:
    """The difference of a run of 6 steps and one of 18: what only starts and ends is in both."""
    short = measure(cluster, f"{name}-short", 6, link, **changes)
    long = measure(cluster, f"{name}-long", 18, link, **changes)
    sent, messages, planned, payload = ((b - a) / 12 for a, b in zip(short, long, strict=True))
    return Amount(planned, sent, payload, messages)


@pytest.mark.slow
def test_plan_counts_and_network_agree_where_routing_decides_nothing(cluster: Cluster) -> None:
    """Every token goes to every expert: the plan is exact."""
    east, west, _ = cluster.hosts
    step = a_step(cluster, "exact", (east, "east", west, "west"), **sized(choices=8))
    assert step.sent == pytest.approx(step.planned, abs=2)
    gloo = GLOO_BYTES * step.messages
    assert step.payload == pytest.approx(step.planned + gloo, rel=MOST_APART)
    assert gloo < MOST_APART * step.payload, "heads are few beside what they announce"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["routed", "at the experts", "half precision", "apart"])
def test_counts_and_network_agree(cluster: Cluster, case: str) -> None:
    """Where routing decides: the workers' own counts are exact, the plan's are of even routing."""
    changes: dict[str, Any] = {
        "routed": {"islands": PINNED},
        "at the experts": {"islands": PINNED, "combine": "at_experts", "determinism": "run"},
        "half precision": {"islands": PINNED, "precision": "bfloat16"},
        "apart": {"islands": AFD, "router": {"global_loss": 0.1}},
    }[case]
    east, west, _ = cluster.hosts
    name = case.replace(" ", "-")
    step = a_step(cluster, name, (east, "east", west, "west"), **sized(choices=2), **changes)
    print(f"{case}: {step}")
    assert step.payload == pytest.approx(step.sent + GLOO_BYTES * step.messages, rel=MOST_APART)
    assert step.sent == pytest.approx(step.planned, rel=0.25)
