"""A device's fingerprint: the same twice, and each probe with a name and bits of its own."""

from __future__ import annotations

import dataclasses

import pytest
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.record import differing_probes
from dougong.fingerprint.take import take_fingerprint
from tests.fingerprint.shapes import SHAPES


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_device_answers_twice_the_same(precision: str) -> None:
    precisions = tuple(dict.fromkeys(("float32", precision)))
    first, second = (take_fingerprint(Cpu().open(0), precisions, SHAPES, {"$A": "b"}) for _ in range(2))
    assert first == second
    assert first.unstable == ()
    assert first.unanswered == {}
    assert {"threads", "torch", "capability", "$A"} <= set(first.environment)
    assert len(set(first.probes.values())) == len(first.probes)


def test_other_shapes_give_other_hashes_of_the_job_alone() -> None:
    device = Cpu().open(0)
    a = take_fingerprint(device, ("float32",), SHAPES)
    b = take_fingerprint(device, ("float32",), dataclasses.replace(SHAPES, rows=(1, 7)))
    assert differing_probes(a, b)
    assert all(name.startswith("job: ") for name in differing_probes(a, b))


def test_a_probe_that_cannot_run_has_its_reason_for_an_answer() -> None:
    none = dataclasses.replace(SHAPES, sequence=-3)  # no tensor has such a length: the library refuses it
    found = take_fingerprint(Cpu().open(0), ("float32",), none)
    assert any(reason.startswith("RuntimeError: ") for reason in found.unanswered.values())
    assert len(found.unanswered) < len(found.probes)
