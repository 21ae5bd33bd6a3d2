"""`pipeline: zebra` on workers that have attention and experts: layer by layer over all micro-batches, the bits of
`serial`, and the dense gradients of a layer complete before those far below it begin."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from dougong.job.schema import Job
from dougong.parallel.segments.tape import GraphNode
from tests.families import FAMILIES, config_values
from tests.jobs import Rig, make_job, make_rig
from tests.test_recompute import Bits, bits_of_layout
from torch import Tensor

LANES = 4
Case = tuple[str, str, str]
"""(family, precision, recompute)."""
WAYS = list(itertools.product(("float32", "bfloat16"), ("none", "layers")))
IN_SHORT = ("qwen3_moe", "deepseek_v3")
LAYOUTS = ("B", "BB", "BBB")
"""Four lanes: on three workers they are uneven."""


def job_of(case: Case, pipeline: str, **changes: Any) -> Job:
    family, precision, recompute = case
    return make_job(
        family,
        precision=precision,
        recompute=recompute,
        pipeline=pipeline,
        batch={"lanes": LANES, "microbatches": 3, "microbatch_size": 1},
        **changes,
    )


def bits_on(layout: str, cases: list[Case], pipeline: str) -> list[Bits]:
    return bits_of_layout(layout, [job_of(case, pipeline) for case in cases])


def check(family: str) -> None:
    cases = [(family, *way) for way in WAYS]
    expected = bits_on("B", cases, "serial")
    for layout in LAYOUTS:
        for case, found, due in zip(cases, bits_on(layout, cases, "zebra"), expected, strict=True):
            assert len(due[0]) == LANES * 3 and len(due[1]) > 20
            assert found == due, (layout, case)


@pytest.mark.parametrize("family", IN_SHORT)
def test_it_has_the_bits_of_serial_on_one_to_three_workers(family: str) -> None:
    check(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in IN_SHORT])
def test_it_has_them_with_every_family(family: str) -> None:
    check(family)


# ---------------------------------------------------------------------------------------------------------------------
# When gradients are complete


class _Noting:
    """A sink that notes of which tensor each gradient is, and passes it on."""

    def __init__(self, sink: Any, leaves: dict[GraphNode, str], names: list[str]) -> None:
        self._sink, self._leaves, self._names = sink, leaves, names
        self.begin, self.end = sink.begin, sink.end

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self._names.append(self._leaves[leaf])
        self._sink.take(leaf, gradient)


def order_of_gradients(rig: Rig) -> list[str]:
    """The dense tensors' names, once for each gradient of a lane's micro-batch, as a step brings them."""
    gradients, names = rig.stepper.parts.gradients, list[str]()
    sink, leaves = gradients.sink, dict(gradients.leaves)

    def noting(lane: int, microbatch: int) -> Any:
        return _Noting(sink(lane, microbatch), leaves, names)

    gradients.sink = noting  # type: ignore[method-assign]
    rig.stepper.gradients(1, rig.forwards(1))
    return names


def most_layers_begun(names: list[str]) -> int:
    """Of decoder layers, the most that have received a gradient and will receive another one."""
    layers = [int(found[1]) if (found := re.search(r"layers\.(\d+)\.", name)) else None for name in names]
    first = {layer: at for at, layer in reversed(list(enumerate(layers))) if layer is not None}
    last = {layer: at for at, layer in enumerate(layers) if layer is not None}
    assert len(first) == 6
    return max(sum(first[layer] <= at <= last[layer] for layer in first) for at in range(len(names)))


@pytest.mark.parametrize("recompute", ["none", "layers"])
@pytest.mark.parametrize(("family", "most"), [("qwen3_moe", 1), ("deepseek_v3", 3)])
def test_few_layers_have_dense_gradients_that_are_not_complete(family: str, most: int, recompute: str) -> None:
    """Those between two sites: one, where nothing behind the experts has weights; here deepseek_v3's first two layers
    have no experts, and the third has a shared one."""
    dense_first = {"first_k_dense_replace": 2} if family == "deepseek_v3" else {}
    model = {"family": family, "config": config_values(family, num_hidden_layers=6, **dense_first)}
    found = {}
    for pipeline in ("zebra", "serial"):
        rig = make_rig(job_of((family, "float32", recompute), pipeline, model=model))
        found[pipeline] = most_layers_begun(order_of_gradients(rig))
    assert found == {"zebra": most, "serial": 6}
