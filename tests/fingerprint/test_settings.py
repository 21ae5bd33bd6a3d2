"""Every setting of a process that can change bits makes another class, and equal settings make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from dougong.accelerators.base import thread_environment
from dougong.fingerprint.record import Fingerprint

ROOT = Path(__file__).resolve().parents[2]
HAS_AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text()
CODE = """\
import json, torch
from dougong.fingerprint.take import take_fingerprint
print(json.dumps(take_fingerprint(torch.device("cpu")).to_json()))
"""
SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    "one thread again": (1, {}),
    "two threads": (2, {}),
    "four threads": (4, {}),
    "narrower vectors": (1, {"ATEN_CPU_CAPABILITY": "avx2"}),
    "narrowest vectors": (1, {"ATEN_CPU_CAPABILITY": "default"}),
    "MKL AVX-512, strict": (1, {"MKL_CBWR": "AVX512,STRICT"}),
    "MKL AVX2, strict": (1, {"MKL_CBWR": "AVX2,STRICT"}),
    "MKL compatible": (1, {"MKL_CBWR": "COMPATIBLE"}),
    "MKL AVX-512, strict, two threads": (2, {"MKL_CBWR": "AVX512,STRICT"}),
    "oneDNN AVX2": (1, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
}


@dataclass(frozen=True)
class Measured:
    """A fingerprint, and the mode that MKL really ran in: one that a processor lacks, or another vendor's, becomes
    automatic."""

    fingerprint: Fingerprint
    mkl: str


def measure(threads: int, variables: dict[str, str]) -> Measured:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MKL_", "OMP_", "ATEN_", "ONEDNN_", "DNNL_"))}
    watched = {"OMP_WAIT_POLICY": "PASSIVE", "MKL_VERBOSE": "1"}  # no spinning; MKL tells of every call
    environment = clean | thread_environment(threads) | variables | watched
    command = [sys.executable, "-c", CODE]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    mkl = next((word for word in told.split() if word.startswith("CNR:")), "no MKL")
    return Measured(Fingerprint.from_json(json.loads(told.splitlines()[-1])), mkl)


@pytest.fixture(scope="module")
def found() -> dict[str, Measured]:
    return {name: measure(*setting) for name, setting in SETTINGS.items()}


@pytest.mark.slow
def test_settings_are_told_apart_exactly_where_they_are_different(found: dict[str, Measured]) -> None:
    really = {name: in_effect(name, found[name]) for name in SETTINGS}
    classes = {name: measured.fingerprint.kernel_class for name, measured in found.items()}
    pairs = [(a, b) for a in SETTINGS for b in SETTINGS]
    assert {p for p in pairs if classes[p[0]] == classes[p[1]]} == {p for p in pairs if really[p[0]] == really[p[1]]}
    assert len(set(classes.values())) >= (9 if HAS_AVX512 else 6)


def in_effect(name: str, measured: Measured) -> tuple[object, ...]:
    """What the setting comes to on this processor: one without AVX-512 has nothing wider than AVX2 to leave unused."""
    threads, variables = SETTINGS[name]
    widest = variables.get("ONEDNN_MAX_CPU_ISA") if HAS_AVX512 else None
    return threads, measured.mkl, measured.fingerprint.environment["capability"], widest


@pytest.mark.slow
def test_nobody_is_unstable_and_the_environment_explains(found: dict[str, Measured]) -> None:
    assert not [name for name, measured in found.items() if measured.fingerprint.unstable]
    environment = {name: measured.fingerprint.environment for name, measured in found.items()}
    threads = [environment[name]["threads"] for name in ("one thread", "two threads", "four threads")]
    assert threads == ["1", "2", "4"]
    assert environment["narrower vectors"]["capability"] != environment["narrowest vectors"]["capability"]
