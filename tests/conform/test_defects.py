"""The kit is tried by itself: on a simulated device with one thing made wrong it names that, on a sound one nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conform.defects import METHODS, OPERATORS, STEPS, TOGETHER, Defect
from tests.simdev.accelerators import offer

pytestmark = pytest.mark.simulated

ROOT = Path(__file__).resolve().parents[2]
Named = dict[str, list[str]]
NUM_QUICK, NUM_ALL = 12, 40


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = offer(tmp_path_factory.mktemp("offer"))
    return found | {"SIMDEV_VENDOR": "sima", "SIMDEV_LIBRARY": "simaccl", "OMP_NUM_THREADS": "1"}


def begin(
    environment: dict[str, str], part: str, defects: Sequence[Defect], rank: int = 0, store: str = "none"
) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.conform.mutant", part, str(rank), store, *(one.name for one in defects)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Named]:
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    found: dict[str, Named] = json.loads(output.splitlines()[-1])
    return found


def tried(environment: dict[str, str], part: str, defects: Sequence[Defect]) -> dict[str, Named]:
    return ended(begin(environment, part, defects))


def tried_together(environment: dict[str, str], defects: Sequence[Defect], folder: Path) -> dict[str, Named]:
    """What either of two processes names."""
    both = [begin(environment, "pair", defects, rank, str(folder / "store")) for rank in range(2)]
    one, other = (ended(process) for process in both)
    return {defect: {**named, **other[defect]} for defect, named in one.items()}


def assert_named(found: dict[str, Named], defects: Sequence[Defect]) -> None:
    missed = {one.name: sorted(found[one.name]) for one in defects if not set(one.named) & set(found[one.name])}
    assert not missed, f"named otherwise, or not at all: {missed}"
    assert found[""] == {}, "a sound device is blamed"


def quick(defects: Sequence[Defect]) -> list[Defect]:
    return [one for one in defects if one.is_quick]


def test_there_are_enough() -> None:
    every = (*OPERATORS, *METHODS, *TOGETHER, *STEPS)
    assert len({one.name for one in every}) >= NUM_ALL
    assert len(quick(every)) >= NUM_QUICK


def test_a_dozen_defects_are_named(environment: dict[str, str], tmp_path: Path) -> None:
    alone, together = quick((*OPERATORS, *METHODS)), quick(TOGETHER)
    process = begin(environment, "narrow", alone)
    assert_named(tried_together(environment, together, tmp_path), together)
    assert_named(ended(process), alone)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("defects", [OPERATORS, METHODS], ids=["operators", "methods"])
def test_every_defect_is_named(environment: dict[str, str], defects: Sequence[Defect]) -> None:
    assert_named(tried(environment, "alone", defects), defects)


@pytest.mark.slow
def test_every_defect_between_two_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    assert_named(tried_together(environment, TOGETHER, tmp_path), TOGETHER)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_steps_and_the_first_segment_that_departs_are_named(environment: dict[str, str]) -> None:
    found = tried(environment, "steps", STEPS)
    assert_named(found, STEPS)
    (words,) = found["aten::silu/scaled"]["the model"]
    assert words.startswith("experts of model.layers.0.mlp.experts is the first to depart")


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["sima", "simb"])
def test_a_sound_vendor_is_sound(environment: dict[str, str], vendor: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dougong", "conform", "--accelerator", vendor, "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("precision of TF32" in done.stdout) == (vendor == "simb"), done.stdout


@pytest.mark.slow
def test_an_operator_that_is_missing_or_falls_back_is_named(environment: dict[str, str]) -> None:
    lacks = {"SIMDEV_MISSING": "aten::gelu", "SIMDEV_BY_HOST": "aten::softplus"}
    found = tried(environment | lacks, "alone", ())[""]
    assert set(found) == {"aten::gelu", "aten::softplus"}
    assert "no operator aten::gelu" in found["aten::gelu"][0]
    assert found["aten::softplus"] == ["there is no kernel of it: torch runs it on the host"]
