"""What workers tell each other of a step, in types; and what everybody makes of it.

Reports are gathered, not reduced: each worker does the same sums in the same order, so loss and
norm are the same bits everywhere and on every layout. Floats travel as the eight bytes they are.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dougong.parallel.comm.world import World
from dougong.parallel.pieces import tensor_of
from dougong.parallel.tree import LaneTree
from dougong.training.results.integrity_word import FORMAT as INTEGRITY_FORMAT
from dougong.training.results.integrity_word import NOTHING_CHANGED, IntegrityWord

FLOAT32_BYTES = 4

_Key = TypeVar("_Key", str, tuple[int, int])

LossKey = tuple[int, int]
"""(lane, micro-batch) in a step, (round, lane) in an evaluation."""


def loss_keys(lanes: Sequence[int], num_microbatches: int) -> list[LossKey]:
    """The keys of some lanes' losses, lane by lane."""
    return list(itertools.product(lanes, range(num_microbatches)))


@dataclass(frozen=True)
class NotFinite:
    """What of a step is NaN or infinite, as the reports of all workers say: (lane, micro-batch) of
    losses, and names of tensors by their gradients' norms."""

    losses: tuple[LossKey, ...]
    gradients: tuple[str, ...]


@dataclass(frozen=True)
class StepResult:
    """A step before its update, the same on every worker.

    loss: the mean over the step's tokens; grad_norm: before clipping; rate: the learning rate;
    exchange_s: seconds spent in messages so far, by rank; stop: some worker was asked to stop;
    rest: some worker was asked to end its generation (a stop counts more); unreached: the trained
    dense tensors that the step's graph reached on no lane. They have no gradient, which is another
    thing than a gradient of zero; not_finite: what of the step is NaN or infinite, None for one as
    it should be; was_not_finite: the same of a first computation, after which this is the second;
    is_skipped: it is left without its update.
    """

    step: int
    loss: float
    grad_norm: float
    rate: float
    exchange_s: tuple[float, ...]
    stop: bool
    unreached: frozenset[str] = frozenset()
    not_finite: NotFinite | None = None
    was_not_finite: NotFinite | None = None
    is_skipped: bool = False
    rest: bool = False

    def with_gradient(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of sums by owned name, those of tensors that were reached."""
        if not self.unreached:
            return dict(gradients)
        return {n: g for n, g in gradients.items() if tensor_of(n) not in self.unreached}


_ENTRY = struct.Struct("<?d")
"""Whether there is a loss, and the loss."""
ENTRY_BYTES = _ENTRY.size
_STOP, _REST = 1, 2
"""Bits of a report's first byte."""


def report_format(num_losses: int, num_squares: int, num_dense: int) -> str:
    """stop or rest, exchange_s, the integrity's word, losses, squares, bits; little-endian, without
    gaps."""
    return f"<Bd{INTEGRITY_FORMAT}{num_losses}d{num_squares}d{(num_dense + 7) // 8}s"


def report_bytes(num_losses: int, num_squares: int, num_dense: int) -> int:
    """The size of every report that says so much."""
    return struct.calcsize(report_format(num_losses, num_squares, num_dense))


@dataclass(frozen=True)
class StepReport:
    """What one worker says of its step when its gradients are there.

    stop, rest: as in the result; exchange_s: seconds spent in messages; losses: of its lanes'
    micro-batches; squares: the squared norm of each owned tensor's gradient, by tensor name;
    reached: which dense tensors have received a gradient on one of its lanes (`pack_reached`);
    integrity: what it says of numbers that have a copy.
    """

    stop: bool
    exchange_s: float
    losses: Mapping[LossKey, float]
    squares: Mapping[str, float]
    reached: bytes = b""
    rest: bool = False
    integrity: IntegrityWord = NOTHING_CHANGED


@dataclass(frozen=True)
class ReportForm:
    """Which losses and norms one worker's report holds, and in what order; `dense`: the tensors
    of which it says, one bit each, whether they were reached.

    Everybody knows everybody's form, from the plan: only values travel, and their sizes are known
    beforehand.
    """

    losses: tuple[LossKey, ...]
    squares: tuple[str, ...]
    dense: tuple[str, ...] = ()

    @property
    def _format(self) -> str:
        return report_format(len(self.losses), len(self.squares), len(self.dense))

    @property
    def num_bytes(self) -> int:
        """The size of every report of this form."""
        return struct.calcsize(self._format)

    def encode(self, report: StepReport) -> bytes:
        """The report's values. KeyError when one is missing."""
        losses = [report.losses[key] for key in self.losses]
        squares = [report.squares[name] for name in self.squares]
        asked = _STOP * report.stop | _REST * report.rest
        word = report.integrity.numbers()
        values = (asked, report.exchange_s, *word, *losses, *squares, report.reached)
        return struct.pack(self._format, *values)

    def decode(self, payload: bytes) -> StepReport:
        """What `encode` was given."""
        asked, exchange_s, *values, reached = struct.unpack(self._format, payload)
        word, values = IntegrityWord.of(*values[:3]), values[3:]
        losses = dict(zip(self.losses, values[: len(self.losses)], strict=True))
        squares = dict(zip(self.squares, values[len(self.losses) :], strict=True))
        stop, rest = bool(asked & _STOP), bool(asked & _REST)
        return StepReport(stop, exchange_s, losses, squares, reached, rest, word)


def gather_reports(
    world: World, report: StepReport, forms: Sequence[ReportForm]
) -> list[StepReport]:
    """All workers' reports, by rank, in one exchange. `forms`: by rank. Collective."""
    payload = forms[world.rank].encode(report)
    payloads = world.gather_bytes(payload, [form.num_bytes for form in forms])
    return [form.decode(found) for form, found in zip(forms, payloads, strict=True)]


def pack_reached(dense: Sequence[str], reached: Collection[str]) -> bytes:
    """One bit for each of `dense`, in their order: whether it was reached."""
    return np.packbits(np.array([name in reached for name in dense], bool)).tobytes()


def unreached_names(reports: Sequence[StepReport], forms: Sequence[ReportForm]) -> frozenset[str]:
    """The dense tensors that were reached on no worker. `reports`, `forms`: by rank."""
    # Nearly always none, on any number of workers: bits are joined, and names made of what is left.
    pairs = [(report, form) for report, form in zip(reports, forms, strict=True) if form.dense]
    if not pairs:
        return frozenset()
    dense = pairs[0][1].dense
    bits = [np.frombuffer(report.reached, np.uint8) for report, _ in pairs]
    reached = np.unpackbits(np.bitwise_or.reduce(bits), count=len(dense))
    return frozenset(itertools.compress(dense, reached == 0))


def gather_losses(
    world: World, losses: Mapping[LossKey, float], keys: Sequence[Sequence[LossKey]]
) -> dict[LossKey, float]:
    """All workers' losses by key, in one exchange. Collective.

    `keys`: those that each rank may have. A key without a loss is left out; one whose loss is not a
    number is not.
    """
    mine = [_ENTRY.pack(key in losses, losses.get(key, 0.0)) for key in keys[world.rank]]
    payloads = world.gather_bytes(b"".join(mine), [ENTRY_BYTES * len(of_rank) for of_rank in keys])
    found: dict[LossKey, float] = {}
    for of_rank, payload in zip(keys, payloads, strict=True):
        for key, (present, loss) in zip(of_rank, _ENTRY.iter_unpack(payload), strict=True):
            if present:
                found[key] = loss
    return found


def gather_vectors(
    world: World, vectors: Mapping[str, Tensor], lengths: Sequence[Mapping[str, int]]
) -> dict[str, Tensor]:
    """All workers' float32 vectors by name, on the CPU, in one exchange. Collective.

    `lengths`: the names and numbers of values that each rank has; no name has two owners.
    """
    mine = [_float32_bytes(vectors[name]) for name in lengths[world.rank]]
    sizes = [FLOAT32_BYTES * sum(of_rank.values()) for of_rank in lengths]
    payloads = world.gather_bytes(b"".join(mine), sizes)
    found: dict[str, Tensor] = {}
    for of_rank, payload in zip(lengths, payloads, strict=True):
        values = torch.from_numpy(np.frombuffer(payload, "<f4").astype(np.float32))
        pieces = values.split(list(of_rank.values()))
        for name, piece in zip(of_rank, pieces, strict=True):
            found[name] = piece.clone()
    return found


def _float32_bytes(vector: Tensor) -> bytes:
    return vector.cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()


def merged_losses(reports: Iterable[StepReport]) -> dict[LossKey, float]:
    """The losses of all reports."""
    losses: dict[LossKey, float] = {}
    for report in reports:
        losses.update(report.losses)
    return losses


def mean_loss(losses: Mapping[LossKey, float], num_lanes: int, num_microbatches: int) -> float:
    """The mean over lanes and micro-batches: micro-batches added in order within a lane, lanes by
    the tree, as the gradients are."""
    lanes: dict[int, float] = {}
    for lane in range(num_lanes):
        lanes[lane] = sum(losses[lane, microbatch] for microbatch in range(num_microbatches))
    return LaneTree(num_lanes).sum_numbers(lanes) / (num_lanes * num_microbatches)


def evaluation_mean(losses: Mapping[LossKey, float]) -> float:
    """The mean of an evaluation's losses, added in the order of rounds and lanes."""
    return sum(losses[key] for key in sorted(losses)) / len(losses)


def global_norm(reports: Iterable[StepReport]) -> float:
    """The norm of all gradients together. Squares are added in the order of names, so no bit
    depends on who owns what."""
    # Added as Python floats (float64) one by one: no library decides how.
    squares: dict[str, float] = {}
    for report in reports:
        squares.update(report.squares)
    return float(sum(squares[name] for name in sorted(squares)) ** 0.5)


def find_not_finite(
    loss: float, norm: float, losses: Mapping[LossKey, float], reports: Iterable[StepReport]
) -> NotFinite | None:
    """What of a step with this mean loss and gradient norm is NaN or infinite; None: nothing."""
    # A sum with a NaN or an infinity in it is none that is finite, so two numbers tell of all.
    if math.isfinite(loss) and math.isfinite(norm):
        return None
    squares: dict[str, float] = {}
    for report in reports:
        squares.update(report.squares)
    return NotFinite(_keys_not_finite(losses), _keys_not_finite(squares))


def _keys_not_finite(values: Mapping[_Key, float]) -> tuple[_Key, ...]:
    return tuple(key for key in sorted(values) if not math.isfinite(values[key]))


def clip_scale(norm: float, limit: float | None) -> float:
    """What gradients are multiplied with so that their global norm is at most `limit`; 1 when it
    already is."""
    if limit is not None and norm > limit:
        return limit / norm
    return 1.0
