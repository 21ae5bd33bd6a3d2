"""All checks, in the order in which they are run: what later ones rest on comes first."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.conform.check import Bed, Check
from dougong.conform.device.chance import chance_checks
from dougong.conform.device.copies import copy_checks
from dougong.conform.device.memory import memory_checks
from dougong.conform.device.streams import stream_checks
from dougong.conform.kit.lines import Part
from dougong.conform.operators.attention import attention_checks
from dougong.conform.operators.blocks import block_cases
from dougong.conform.operators.case import Case
from dougong.conform.operators.elements import element_cases
from dougong.conform.operators.experts import expert_checks
from dougong.conform.operators.places import place_cases
from dougong.conform.operators.products import product_cases
from dougong.conform.operators.sums import sum_cases
from dougong.conform.operators.trial import check_of
from dougong.conform.peers.bridge import bridge_checks
from dougong.conform.peers.collectives import collective_checks
from dougong.conform.steps.golden import golden_checks
from dougong.conform.steps.saving import saving_checks
from dougong.conform.steps.segments import segment_checks


def checks_of(part: Part, bed: Bed) -> Iterator[Check]:
    """The checks of one part, each with a name of its own."""
    if part == "alone":
        yield from device_checks()
        yield from operator_checks(bed)
    elif part == "pair":
        yield from collective_checks()
        yield from bridge_checks()
    else:
        yield from attention_checks()  # beside the others that need transformers' library
        yield from golden_checks()
        yield from saving_checks()
        if bed.model:
            yield from segment_checks()


def device_checks() -> Iterator[Check]:
    """What a device does beside computing."""
    yield from copy_checks()
    yield from stream_checks()
    yield from memory_checks()
    yield from chance_checks()


def operator_cases() -> Iterator[Case]:
    yield from product_cases()
    yield from element_cases()
    yield from sum_cases()
    yield from place_cases()
    yield from block_cases()


def operator_checks(bed: Bed) -> Iterator[Check]:
    """What a device computes: each operator, then each form of experts."""
    for case in operator_cases():
        yield check_of(case)
    yield from expert_checks(bed)
