"""Every check has a name of its own, by which it is told to be over."""

from __future__ import annotations

from pathlib import Path

from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed
from dougong.conform.kit.catalogue import checks_of
from dougong.conform.kit.lines import PARTS


def test_names_are_unique_and_each_judges_something() -> None:
    bed = Bed(Cpu(), CPU, Path(), model="qwen3_moe")
    checks = [check for part in PARTS for check in checks_of(part, bed)]
    assert len({check.name for check in checks}) == len(checks) > 100
    assert all(check.judges and check.group for check in checks)
    assert {check.num_processes for check in checks_of("pair", bed)} == {2}
    assert not [check for check in checks_of("steps", Bed(Cpu(), CPU, Path())) if check.group == "model"]
