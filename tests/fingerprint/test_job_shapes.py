"""The probes of one job are named by its sizes, and only the number of results is cut."""

from __future__ import annotations

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.bench import Bench
from dougong.fingerprint.general import general_probes
from dougong.fingerprint.job_shapes import cut, shaped_probes
from tests.fingerprint.shapes import SHAPES


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Cpu().open(0))


def test_every_probe_has_its_own_name(bench: Bench) -> None:
    names = [name for name, _ in general_probes(bench, ("float32", "bfloat16"))]
    names += [name for name, _ in shaped_probes(bench, SHAPES, "float32")]
    assert len(set(names)) == len(names)
    assert {"job: product 96 x 64", "job: product 96 x 64, to the input", "job: gate 48"} <= set(names)


@pytest.mark.parametrize(
    ("size", "other", "most", "left"),
    [(96, 64, 1 << 18, 96), (151936, 2048, 1 << 18, 128), (4096, 100, 1 << 18, 2560), (500, 1 << 20, 1 << 18, 64),
     (40, 1 << 20, 1 << 18, 40)],
)  # fmt: skip
def test_only_the_number_of_results_is_cut(size: int, other: int, most: int, left: int) -> None:
    assert cut(size, other, most) == left


def test_a_product_keeps_the_length_of_its_sum(bench: Bench) -> None:
    probes = dict(shaped_probes(bench, SHAPES, "float32"))
    forward = probes["job: product 96 x 64"]()
    assert [tuple(output.shape) for output in forward] == [(rows, 96) for rows in SHAPES.rows]
    to_rows = probes["job: product 96 x 64, to the input"]()
    assert [tuple(output.shape) for output in to_rows] == [(rows, 64) for rows in SHAPES.rows]
    to_weight = probes["job: product 96 x 64, to the weight"]()
    assert {tuple(output.shape) for output in to_weight} == {(96, 64)}
    # Each is the product that its name says, of inputs that anybody can make again.
    w = bench.values("w", 96, 64)
    assert torch.allclose(forward[1], bench.values("x", 7, 64) @ w.t(), rtol=1e-4, atol=1e-4)
