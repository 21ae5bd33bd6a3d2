"""Inputs of fixed bits, and the hash of what a probe gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.bench import Bench, measure
from dougong.fingerprint.record import UNSTABLE, digest


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Cpu().open(0))


def test_a_probe_that_changes_its_mind_is_unstable() -> None:
    answers = itertools.count()
    assert measure(lambda: (torch.tensor([next(answers)]),)) == UNSTABLE


def test_one_bit_is_seen_and_a_missing_kernel_has_a_word() -> None:
    x = torch.linspace(0, 1, 1001)
    flipped = x.clone()
    flipped.view(torch.int32)[500] ^= 1
    assert measure(lambda: (x,)) != measure(lambda: (flipped,))

    def nothing() -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    assert measure(nothing) == "none"


def test_an_error_of_a_probe_is_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(lambda: (torch.ones(2, 3) @ torch.ones(2, 3),))


def test_inputs_have_the_same_bits_everywhere(bench: Bench) -> None:
    x = bench.values("x", 3, 5)
    assert x.abs().max() < 2
    assert torch.equal((x * 2**22).round(), x * 2**22)
    assert torch.equal(bench.values("x", 15), x.flatten())
    assert torch.equal(bench.values("x", 15, dtype=torch.bfloat16), x.flatten().bfloat16())
    long = bench.values("x", 3_000_000)  # more than there are values: they begin again
    assert torch.equal(long[:1_900_000], long[1048583:][:1_900_000])


def test_inputs_are_splitmix64(bench: Bench) -> None:
    """The first outputs for seed 0 as published with the generator; their upper 24 bits, centred."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    period = 1048583
    start = int(digest(b"x"), 16) % period  # each name begins at a place of its own
    first = bench.values("x", 2 * period)[period - start :][:3]
    assert first.tolist() == [((z >> 40) - 2**23) / 2**22 for z in outputs]
