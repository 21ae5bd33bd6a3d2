"""The value, its hash and its way over JSON; probes that answer twice the same; shapes; what differs is named."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.fingerprint.bench import Bench, _dyadic, measure
from dougong.fingerprint.general import general_probes
from dougong.fingerprint.job_shapes import cut, shaped_probes
from dougong.fingerprint.record import (
    UNSTABLE,
    Fingerprint,
    JobShapes,
    differing_environment,
    differing_probes,
    question_of,
)
from dougong.fingerprint.take import take_fingerprint

SHAPES = JobShapes(((96, 64), (64, 48), (250, 64)), (1, 7, 16, 33), 4, 16, 32, 64, 48, 8, 250)
ONE = Fingerprint({"sum": "aa", "exp": "bb"}, "r", {"threads": "1", "torch": "2.13"})


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Cpu().open(0))


def test_it_survives_json() -> None:
    assert Fingerprint.from_json(json.loads(json.dumps(ONE.to_json()))) == ONE
    assert JobShapes.from_json(json.loads(json.dumps(dataclasses.asdict(SHAPES)))) == SHAPES


@pytest.mark.parametrize(
    "damage",
    [
        {"class": "0" * 16},
        {"probes": {"sum": "ab", "exp": "bb"}},
        {"probes": {"sum": "aa"}},
        {"probes": ["sum"]},
        {"environment": None},
    ],
)
def test_a_damaged_one_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        Fingerprint.from_json(ONE.to_json() | damage)


def test_the_class_is_that_of_the_probes_alone() -> None:
    assert dataclasses.replace(ONE, environment={}).kernel_class == ONE.kernel_class
    assert dataclasses.replace(ONE, probes={"exp": "bb", "sum": "aa"}).kernel_class == ONE.kernel_class
    assert dataclasses.replace(ONE, probes={"sum": "aa", "exp": "bc"}).kernel_class != ONE.kernel_class


def test_what_differs_is_named() -> None:
    other = Fingerprint({"sum": "aa", "exp": "cc", "new": "dd"}, "r", {"threads": "2", "torch": "2.13", "$X": "1"})
    assert differing_probes(ONE, other) == ["exp", "new"]
    assert differing_environment(ONE, other) == {"threads": ("1", "2"), "$X": ("-", "1")}


def test_the_recipe_follows_what_is_asked() -> None:
    asked = [
        (("float32",), None),
        (("float32", "bfloat16"), None),
        (("float32",), SHAPES),
        (("float32",), dataclasses.replace(SHAPES, sequence=33)),
    ]
    assert len({question_of(precisions, shapes) for precisions, shapes in asked}) == len(asked)
    assert question_of(("float32",), SHAPES) == question_of(("float32",), dataclasses.replace(SHAPES))


def test_a_probe_that_changes_its_mind_is_unstable() -> None:
    answers = itertools.count()
    assert measure(lambda: (torch.tensor([next(answers)]),)) == UNSTABLE
    assert dataclasses.replace(ONE, probes={"sum": UNSTABLE, "exp": "bb"}).unstable == ("sum",)


def test_one_bit_is_seen_and_a_missing_kernel_has_a_word() -> None:
    x = torch.linspace(0, 1, 1001)
    flipped = x.clone()
    flipped.view(torch.int32)[500] ^= 1
    assert measure(lambda: (x,)) != measure(lambda: (flipped,))

    def nothing() -> tuple[torch.Tensor, ...]:
        raise NotImplementedError

    assert measure(nothing) == "none"


def test_an_error_of_a_probe_is_told() -> None:
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


def test_inputs_are_splitmix64() -> None:
    """The first outputs for seed 0 as published with the generator; their upper 24 bits, centred."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert _dyadic(3).tolist() == [((z >> 40) - 2**23) / 2**22 for z in outputs]


def test_every_probe_has_its_own_name(bench: Bench) -> None:
    names = [name for name, _ in general_probes(bench, ("float32", "bfloat16"))]
    names += [name for name, _ in shaped_probes(bench, SHAPES, "float32")]
    assert len(set(names)) == len(names)
    assert {"job: product 96 x 64", "job: product 96 x 64, to the input", "job: attention 32 x 16"} <= set(names)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_device_answers_twice_the_same(precision: str) -> None:
    precisions = tuple(dict.fromkeys(("float32", precision)))
    first, second = (take_fingerprint(Cpu().open(0), precisions, SHAPES, {"$A": "b"}) for _ in range(2))
    assert first == second
    assert first.unstable == ()
    assert "none" not in first.probes.values()
    assert {"threads", "torch", "capability", "$A"} <= set(first.environment)
    assert len(set(first.probes.values())) == len(first.probes)


def test_other_shapes_give_other_hashes_of_the_job_alone() -> None:
    device = Cpu().open(0)
    a = take_fingerprint(device, ("float32",), SHAPES)
    b = take_fingerprint(device, ("float32",), dataclasses.replace(SHAPES, rows=(1, 7)))
    assert differing_probes(a, b)
    assert all(name.startswith("job: ") for name in differing_probes(a, b))


@pytest.mark.parametrize(
    ("size", "other", "most", "left"),
    [(96, 64, 1 << 18, 96), (151936, 2048, 1 << 18, 128), (4096, 100, 1 << 18, 2560), (500, 1 << 20, 1 << 18, 64),
     (40, 1 << 20, 1 << 18, 40)],
)  # fmt: skip
def test_only_the_number_of_results_is_cut(size: int, other: int, most: int, left: int) -> None:
    assert cut(size, other, most) == left
