"""All checks, in the order in which they are run: what later ones rest on comes first."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.conform.check import Bed, Check
from dougong.conform.device.chance import chance_checks
from dougong.conform.device.copies import copy_checks
from dougong.conform.device.memory import memory_checks
from dougong.conform.device.streams import stream_checks
from dougong.conform.operators.blocks import block_cases
from dougong.conform.operators.case import Case
from dougong.conform.operators.elements import element_cases
from dougong.conform.operators.experts import expert_checks
from dougong.conform.operators.places import place_cases
from dougong.conform.operators.products import product_cases
from dougong.conform.operators.sums import sum_cases
from dougong.conform.operators.trial import check_of


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
