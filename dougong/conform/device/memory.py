"""Memory of a device: how much there is and was, and what happens where there is no more."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from dougong.conform.check import CPU, Bed, CannotTry, Check, method, need_streams, require

GROUP = "memory"
STEP = 1 << 20
"""Bytes: a multiple of what every allocator rounds to."""


def memory_checks() -> Iterator[Check]:
    """Statistics first: the others read them."""
    yield method("memory in use", GROUP, "torch.accelerator.memory_allocated", _allocated)
    yield method("most memory in use", GROUP, "torch.accelerator.max_memory_allocated", _peak)
    yield method(
        "most memory, begun anew", GROUP, "torch.accelerator.reset_peak_memory_stats", _reset_peak
    )
    yield method("free memory", GROUP, "torch.accelerator.get_memory_info", _info)
    yield method("alignment of memory", GROUP, "torch.empty", _alignment)
    yield method("out of memory", GROUP, "torch.OutOfMemoryError", _out_of_memory)


def _bytes(bed: Bed, count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8, device=bed.device)


def _clean(bed: Bed) -> int:
    need_streams(bed)
    torch.accelerator.synchronize()
    return torch.accelerator.memory_allocated()


def _allocated(bed: Bed) -> None:
    gc.collect()  # what earlier checks have let go of in circles
    before = _clean(bed)
    held = _bytes(bed, 4 * STEP)
    grown = torch.accelerator.memory_allocated() - before
    require(grown == 4 * STEP, f"{4 * STEP} bytes were taken, and it has grown by {grown}")
    del held
    left = torch.accelerator.memory_allocated() - before
    require(left == 0, f"{left} bytes are in use after all were given back")


def _peak(bed: Bed) -> None:
    before = _clean(bed)
    torch.accelerator.reset_peak_memory_stats()
    held = _bytes(bed, 8 * STEP)
    del held
    most = torch.accelerator.max_memory_allocated() - before
    require(most >= 8 * STEP, f"{8 * STEP} bytes were in use, and it says {most}")


def _reset_peak(bed: Bed) -> None:
    before = _clean(bed)
    held = _bytes(bed, 16 * STEP)
    del held
    torch.accelerator.reset_peak_memory_stats()
    most = torch.accelerator.max_memory_allocated() - before
    require(most < 16 * STEP, "the most before it was begun anew is still told")


def _info(bed: Bed) -> None:
    _clean(bed)
    free, total = torch.accelerator.get_memory_info()
    require(0 < free <= total, f"{free} bytes are free of {total}")
    in_use = torch.accelerator.memory_allocated()
    require(in_use <= total, f"{in_use} bytes are in use of {total}")
    require(free <= total - in_use + STEP, f"{free} bytes are free of {total}, {in_use} in use")


def _alignment(bed: Bed) -> None:
    need_streams(bed)
    for count in (1, 3, 513, STEP + 1):
        place = _bytes(bed, count).data_ptr()
        require(place % 512 == 0, f"{count} bytes begin at {place % 512} behind a multiple of 512")


def _out_of_memory(bed: Bed) -> None:
    """It is reported as torch's own error, and the next allocation works."""
    _clean(bed)
    _, total = torch.accelerator.get_memory_info()
    if total <= 0:
        raise CannotTry("the device does not tell how much memory it has")
    in_use = torch.accelerator.memory_allocated()
    reported = False
    try:
        _bytes(bed, 2 * total)
    except torch.OutOfMemoryError:
        reported = True
    except RuntimeError as error:
        require(False, f"reported as {type(error).__name__}, not as torch.OutOfMemoryError")
    require(reported, f"{2 * total} bytes were given of {total}")
    require(torch.accelerator.memory_allocated() == in_use, "what was refused counts as in use")
    ones = torch.ones(STEP, device=bed.device)
    require(bool(ones.to(CPU).eq(1).all()), "what was computed after it is wrong")
