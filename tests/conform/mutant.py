"""The kit on a simulated device with one defect after the other, in one process.

SIMDEV_VENDOR=sima SIMDEV_LIBRARY=simaccl python -m tests.conform.mutant DEFECT...: what it names for each, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import chain
from pathlib import Path

import torch
from dougong.accelerators.registry import get_accelerator
from dougong.conform.check import Bed, outcome_of
from dougong.conform.kit.catalogue import device_checks, operator_checks
from dougong.conform.record import with_causes
from tests.simdev import plugin


def named(bed: Bed) -> dict[str, list[str]]:
    """What is at fault by itself, and in which words."""
    checks = chain(device_checks(), operator_checks(bed))
    outcomes = with_causes(tuple(outcome_of(check, bed) for check in checks))
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.is_culprit:
            found.setdefault(outcome.judges, []).extend(outcome.words)
    return found


def main() -> None:
    torch.set_num_threads(1)
    accelerator = get_accelerator(plugin.VENDOR)
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(accelerator, accelerator.open(0), Path(folder))
        found = {}
        for defect in sys.argv[1:]:
            plugin.native.set_defect(defect)
            found[defect] = named(bed)
            plugin.native.set_defect("")
            torch.accelerator.synchronize()
        found[""] = named(bed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
