"""The kit on a simulated device with one defect after the other, in one process, or in two that speak with each other.

SIMDEV_VENDOR=sima SIMDEV_LIBRARY=simaccl python -m tests.conform.mutant PART RANK STORE DEFECT...: what it names for
each as JSON, and last for a device without a defect (the empty name). PART: alone, steps, pair; `narrow`: as alone, but
for a defect of an operator the checks of operators alone, and for one of a method those of methods.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from dougong.accelerators.registry import get_accelerator
from dougong.conform.check import Bed, Check, DevicePair, outcome_of
from dougong.conform.kit.catalogue import checks_of
from dougong.conform.record import with_causes
from tests.simdev import plugin

Named = dict[str, list[str]]
"""What is at fault by itself, and in which words."""


def narrowed(checks: Iterable[Check], defect: str) -> Iterator[Check]:
    for check in checks:
        if not defect or (check.group == "operators") == ("/" in defect):
            yield check


def named(checks: Iterable[Check], bed: Bed) -> Named:
    outcomes = with_causes(tuple(outcome_of(check, bed) for check in checks))
    found: Named = {}
    for outcome in outcomes:
        if outcome.is_culprit:
            found.setdefault(outcome.judges, []).extend(outcome.words)
    return found


def run(part: str, bed: Bed, defects: Sequence[str]) -> dict[str, Named]:
    found = {}
    for defect in (*defects, ""):
        checks = checks_of("alone" if part == "narrow" else part, bed)  # type: ignore[arg-type]
        plugin.native.set_defect(defect)
        with tempfile.TemporaryDirectory() as folder:
            there = dataclasses.replace(bed, folder=Path(folder))
            found[defect] = named(narrowed(checks, defect) if part == "narrow" else checks, there)
        plugin.native.set_defect("")
        torch.accelerator.synchronize()
        if bed.pair is not None:
            dist.barrier(bed.pair.gloo)
    return found


def meet(rank: int, store: str) -> DevicePair:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    native = dist.new_group([0, 1], backend=plugin.LIBRARY)
    assert dist.group.WORLD is not None
    return DevicePair(rank, native, dist.group.WORLD)


def main() -> None:
    part, rank, store, *defects = sys.argv[1:]
    torch.set_num_threads(1)
    accelerator = get_accelerator(plugin.VENDOR)
    # Without determinism where it is tried quickly: that loads torch's compiler, which takes longer than all checks.
    device = accelerator.open(int(rank), deterministic=part in ("alone", "steps"))
    pair = meet(int(rank), store) if part == "pair" else None
    print(json.dumps(run(part, Bed(accelerator, device, Path(), pair, "qwen3_moe"), defects)))


if __name__ == "__main__":
    main()
