"""A process that runs checks: `python -m dougong.conform.kit.child FD`.

A request comes as JSON on standard input; one line of JSON goes to the file descriptor FD before
each check and one after it, so that whoever started it knows which check a crash belongs to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from dougong.accelerators.base import Accelerator, enter_device
from dougong.accelerators.registry import get_accelerator
from dougong.conform.check import Bed, Check, DevicePair, outcome_of
from dougong.conform.kit.catalogue import checks_of
from dougong.conform.kit.lines import CheckBegun, CheckLine, CheckRequest
from dougong.deadlines import DEADLINES
from dougong.error_words import ErrorWords
from dougong.errors import DougongError
from dougong.models.library.loading import load_transformers


def main() -> None:
    """Run what standard input asks for."""
    request = CheckRequest.model_validate_json(sys.stdin.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8", buffering=1) as out:
        try:
            for line in run(request):
                out.write(f"{line.model_dump_json()}\n")
        except DougongError as error:
            out.write(f"{CheckLine(refused=ErrorWords.of(error)).model_dump_json()}\n")
    # A device's library may not survive the end of the interpreter, which proves nothing here.
    sys.stdout.flush()
    os._exit(0)


def run(request: CheckRequest) -> Iterator[CheckLine]:
    """Open the device and run the checks that are left, one line before and one after each."""
    if request.part == "steps":
        load_transformers()
    accelerator = get_accelerator(request.accelerator)
    device = accelerator.open(request.index)
    enter_device(device)
    pair = _meet(request, accelerator) if request.size > 1 else None
    bed = Bed(accelerator, device, Path(request.folder), pair, request.model)
    yield CheckLine()
    for check in checks_of(request.part, bed):
        if check.name in request.done:
            continue
        yield CheckLine(begun=_begun(check))
        yield CheckLine(over=outcome_of(check, bed))


def _begun(check: Check) -> CheckBegun:
    return CheckBegun(name=check.name, group=check.group, judges=check.judges)


def _meet(request: CheckRequest, accelerator: Accelerator) -> DevicePair:
    """The groups of two processes. The native one is made at its first use by most libraries, and
    so belongs to the first check of it."""
    patience = timedelta(seconds=DEADLINES.conform_check_s)
    store = FileStore(request.store, request.size)
    dist.init_process_group(
        "gloo", store=store, rank=request.rank, world_size=request.size, timeout=patience
    )
    native = None
    if accelerator.backend != "gloo" and not request.is_shared:
        native = dist.new_group([0, 1], backend=accelerator.backend, timeout=patience)
    assert dist.group.WORLD is not None
    return DevicePair(request.rank, native, dist.group.WORLD, _why_not(request))


def _why_not(request: CheckRequest) -> str:
    if request.is_shared:
        return "one device is here, and a device's library takes one process for each"
    return "processors speak by gloo, with which the others are compared"


if __name__ == "__main__":
    main()
