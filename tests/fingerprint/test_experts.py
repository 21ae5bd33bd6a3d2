"""The fused form that a device would take is probed."""

from __future__ import annotations

import dataclasses

import torch
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.bench import Bench, measure
from dougong.fingerprint.experts import COMPOSED, experts_probe, fused_form
from dougong.fingerprint.record import EXPERTS
from dougong.fingerprint.take import take_fingerprint
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert
from tests.fingerprint.shapes import SHAPES

SWIGLU = dataclasses.replace(SHAPES, swiglu=True)


class Grouped(ByBlock):
    """A vendor's form, as far as a fingerprint sees it."""

    def __init__(self, version: int) -> None:
        super().__init__(SwiGLUExpert())
        self.identity = f"grouped (version {version})"


def test_the_form_that_is_chosen_is_a_probe_and_its_version_is_of_the_class() -> None:
    device = Cpu().open(0)
    none, one, two = (
        take_fingerprint(device, ("float32",), SWIGLU, fused=fused) for fused in ((), [Grouped(1)], [Grouped(2)])
    )
    assert [found.forms[EXPERTS] for found in (none, one, two)] == [
        COMPOSED,
        "grouped (version 1)",
        "grouped (version 2)",
    ]
    assert len(one.probes["job: experts by grouped (version 1)"]) == 16
    assert len({found.kernel_class for found in (none, one, two)}) == 3


def test_other_bits_of_the_form_are_seen() -> None:
    bench = Bench(Cpu().open(0))

    class Doubled(Grouped):
        def forward(self, x_RH, blocks, tensors, out_RH):  # type: ignore[no-untyped-def]
            saved = super().forward(x_RH, blocks, tensors, out_RH)
            out_RH.mul_(1 + 2**-20)
            return saved

    hashes = {measure(experts_probe(op, bench, SWIGLU, torch.float32)) for op in (Grouped(1), Doubled(1))}
    assert len(hashes) == 2


def test_experts_of_another_kind_have_no_fused_form() -> None:
    bench = Bench(Cpu().open(0))
    assert fused_form([Grouped(1)], bench, SHAPES, torch.float32) is None
