"""What two devices say to each other by their own library, against the same over gloo.

Every check is run by both processes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dougong.conform.check import CPU, Bed, CannotTry, Check, DevicePair, method, require
from dougong.conform.judge import same_bits
from dougong.conform.operators.case import Draw

GROUP = "collectives"
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)
Talk = Callable[[Tensor, DevicePair, dist.ProcessGroup], Sequence[Tensor]]
"""talk(own values, pair, group): what this process has then; on whatever device the values are."""


def collective_checks() -> Iterator[Check]:
    """Messages, then what all members of an island do together."""
    talks = {
        "messages to each other": ("batch_isend_irecv", _messages),
        "messages in their order": ("batch_isend_irecv", _in_order),
        "sums of whole numbers": ("all_reduce", _sum),
        "a gather by rank": ("all_gather", _gather),
        "uneven parts to everybody": ("all_to_all_single", _uneven),
        "parts without a row": ("all_to_all_single", _empty_parts),
        "a broadcast from each": ("broadcast", _broadcast),
    }
    for name, (judged, talk) in talks.items():
        yield method(name, GROUP, judged, _compared(talk), num_processes=2)
    yield method("a message behind work", GROUP, "stream order", _behind_work, num_processes=2)


def native_of(bed: Bed) -> tuple[DevicePair, dist.ProcessGroup]:
    """The pair, and the group of the device's own library. Raises `CannotTry` without one."""
    assert bed.pair is not None
    if bed.pair.native is None:
        raise CannotTry(bed.pair.why_not)
    return bed.pair, bed.pair.native


def own_values(rank: int, dtype: torch.dtype, count: int = 24) -> Tensor:
    """Values [count, 3] of one rank, small whole numbers, so that sums are exact in any type."""
    draw = Draw()
    both = [draw.ids(count, 3, below=100) for _ in range(2)]
    return both[rank].to(dtype)


def _compared(talk: Talk) -> Callable[[Bed], None]:
    def run(bed: Bed) -> None:
        pair, group = native_of(bed)
        wrong = []
        for dtype in DTYPES:  # to the end, whatever is found: the other process waits for this one
            values = own_values(pair.rank, dtype)
            expected = talk(values.clone(), pair, pair.gloo)
            found = [one.to(CPU) for one in talk(values.to(bed.device), pair, group)]
            if not all(map(same_bits, found, expected)):
                wrong.append(str(dtype).removeprefix("torch."))
        require(not wrong, f"other values than by gloo, of {', '.join(wrong)}")

    return run


def _messages(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    received = torch.zeros_like(values)
    exchange(values, received, pair, group)
    return (received,)


def exchange(sent: Tensor, received: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> None:
    """One batch: a message to the other, and one from it."""
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, sent, pair.other, group),
            dist.P2POp(dist.irecv, received, pair.other, group),
        ]
    )
    for work in works:
        work.wait()


def _in_order(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    received = [torch.zeros_like(values) for _ in range(3)]
    for number, place in enumerate(received):
        exchange((values + number).to(values.dtype), place, pair, group)
    return received


def _sum(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    if values.dtype != torch.int64:
        return ()  # nothing but whole numbers is added by a library
    dist.all_reduce(values, group=group)
    return (values,)


def _gather(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    parts = [torch.zeros_like(values) for _ in range(2)]
    dist.all_gather(parts, values, group=group)
    return parts


def _uneven(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    sent = ([7, 17], [20, 4])
    return _all_to_all(values, sent, pair, group)


def _empty_parts(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    parts = _all_to_all(values, ([0, 24], [24, 0]), pair, group)
    nothing = _all_to_all(values[:0], ([0, 0], [0, 0]), pair, group)
    return *parts, *nothing


def _all_to_all(
    values: Tensor, sent: Sequence[list[int]], pair: DevicePair, group: dist.ProcessGroup
) -> Sequence[Tensor]:
    """`sent[r][s]`: rows that rank r has for rank s."""
    due = [row[pair.rank] for row in sent]
    received = values.new_zeros(sum(due), values.shape[1])
    dist.all_to_all_single(received, values, due, sent[pair.rank], group=group)
    return (received,)


def _broadcast(values: Tensor, pair: DevicePair, group: dist.ProcessGroup) -> Sequence[Tensor]:
    copies = [values.clone() for _ in range(2)]
    for root, copy in enumerate(copies):
        dist.broadcast(copy, root, group=group)
    return copies


def _behind_work(bed: Bed) -> None:
    """What is sent has been computed by then, and what follows reads what has come."""
    pair, group = native_of(bed)
    values = own_values(pair.rank, torch.float32).to(bed.device)
    link = torch.full((64, 64), 1 / 64, device=bed.device)
    ones = link
    for _ in range(20):
        ones = ones @ link
    sent = values + ones.sum().mul(0).round()
    received = torch.zeros_like(values)
    exchange(sent, received, pair, group)
    doubled = received * 2
    expected = own_values(pair.other, torch.float32) * 2
    require(same_bits(doubled.to(CPU), expected), "other values than the sender had computed")
