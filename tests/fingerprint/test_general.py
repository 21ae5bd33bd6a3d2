"""The general probes: every precision asks the same, and what has none is asked once."""

from __future__ import annotations

import pytest
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.bench import Bench
from dougong.fingerprint.general import general_probes


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Cpu().open(0))


def test_every_precision_is_asked_the_same(bench: Bench) -> None:
    both = [name for name, _ in general_probes(bench, ("float32", "bfloat16"))]
    in_float32 = [name for name, _ in general_probes(bench, ("float32",))]
    more = [name.removesuffix(" bfloat16") for name in both if name.endswith(" bfloat16")]
    assert len(both) == len(set(both)) == len(in_float32) + len(more)
    assert {f"{name} float32" for name in more} <= set(in_float32)
    assert {"product of one row", "attention", "rms_norm", "silu", "sum", "softmax", "embedding"} <= set(more)


def test_what_has_no_precision_is_asked_once(bench: Bench) -> None:
    names = [name for name, _ in general_probes(bench, ("float32", "bfloat16"))]
    once = ["cross_entropy float32", "adamw float32", "ties in topk and sort", "random uniform", "random normal"]
    assert names[-len(once) :] == once


def test_a_probe_makes_its_inputs_anew(bench: Bench) -> None:
    """The optimizer writes to what it is given; the second answer must not begin where the first ended."""
    probe = dict(general_probes(bench, ("float32",)))["adamw float32"]
    (first,), (second,) = probe(), probe()
    assert first.equal(second)
