"""The count table of an experts call: how much every attention worker sends every experts worker.

One for each site and micro-batch, ahead of the rows; what comes back, and all that the backward
sends, has sizes that follow from it. Each worker sends each other one its share, int64:

    room for a label (`message.LABEL`)                   whose message it is
    K, and the dtype of the rows' weights                (`DTYPES`)
    for each of the sender's lanes                       tokens that cross, rows of each expert

All shares of a worker lie one after another in one tensor, and how long each is follows from the
plan. So it is made and read by one gather of numbers, for any number of peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.parallel.comm.message import LABEL
from dougong.parallel.dispatch.crossing import CrossingPlan, LaneCounts

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of a router's weights, by number."""
_HEAD = len(LABEL) + 2

Numbers = NDArray[np.int64]


def share_length(num_lanes: int, num_experts: int) -> int:
    """How many numbers one worker with lanes sends one with experts."""
    return _HEAD + num_lanes * (1 + num_experts)


def share_bytes(num_lanes: int, num_experts: int) -> int:
    """The bytes of that."""
    return 8 * share_length(num_lanes, num_experts)


class OutgoingTable:
    """Makes what one attention worker sends of one site. `experts_D`: how many experts each
    experts worker has there; `num_lanes`: of this worker."""

    def __init__(self, num_lanes: int, experts_D: Sequence[int]) -> None:
        self.sizes = [share_length(num_lanes, number) for number in experts_D]
        self._shape = num_lanes, len(experts_D), sum(experts_D)
        self._places = self._find_places(experts_D)

    def _find_places(self, experts_D: Sequence[int]) -> Numbers:
        """Where each number of all shares stands in `head`, then all lanes' tokens by worker, then
        all lanes' rows by expert."""
        num_lanes, num_workers, num_experts = self._shape
        tokens = _HEAD + np.arange(num_lanes * num_workers).reshape(num_lanes, num_workers)
        first = _HEAD + tokens.size
        rows = first + np.arange(num_lanes * num_experts).reshape(num_lanes, num_experts)
        places = []
        for worker, begin in enumerate(accumulate(experts_D[:-1], initial=0)):
            own = rows[:, begin : begin + experts_D[worker]]
            by_lane = np.concatenate([tokens[:, worker, None], own], axis=1)
            places += [np.arange(_HEAD), by_lane.reshape(-1)]
        return np.concatenate(places) if places else np.empty(0, np.int64)

    def make(self, crossings: Sequence[CrossingPlan | None], weights_dtype: torch.dtype) -> Tensor:
        """All shares, int64. `crossings`: of each lane, None for one without a micro-batch."""
        num_lanes, num_workers, num_experts = self._shape
        tokens = np.zeros((num_lanes, num_workers), np.int64)
        rows = np.zeros((num_lanes, num_experts), np.int64)
        num_choices = 0
        for lane, crossing in enumerate(crossings):
            if crossing is not None:
                num_choices = crossing.routing.num_choices
                tokens[lane] = crossing.tokens_D
                rows[lane] = crossing.routing.counts_E.numpy()
        head = [*[0] * len(LABEL), num_choices, DTYPES.index(weights_dtype)]
        numbers = np.concatenate([np.array(head, np.int64), tokens.reshape(-1), rows.reshape(-1)])
        return torch.from_numpy(numbers[self._places])


@dataclass(frozen=True)
class TableRead:
    """What has come of all attention workers. `counts`: of all lanes; `tokens_S` and `rows_S`: of
    each attention worker; `weights_dtype`: of the rows' weights."""

    counts: LaneCounts
    tokens_S: list[int]
    rows_S: list[int]
    weights_dtype: torch.dtype


class IncomingTable:
    """Reads what one experts worker gets of one site. `lanes_S`: how many lanes each attention
    worker has; `num_experts`: of this worker there."""

    def __init__(self, lanes_S: Sequence[int], num_experts: int) -> None:
        self.sizes = [share_length(number, num_experts) for number in lanes_S]
        begins = np.cumsum([0, *self.sizes])[:-1]
        self._heads = begins[:, None] + np.arange(_HEAD)
        self._lanes = self._places_of_lanes(begins, lanes_S, 1 + num_experts)
        self._first_lanes = np.cumsum([0, *lanes_S])[:-1]

    @staticmethod
    def _places_of_lanes(begins: Numbers, lanes_S: Sequence[int], width: int) -> Numbers:
        places = []
        for begin, number in zip(begins.tolist(), lanes_S, strict=True):
            places.append(begin + _HEAD + np.arange(number * width).reshape(number, width))
        return np.concatenate(places)

    def read(self, table: Tensor) -> TableRead:
        """All shares, one after another by rank."""
        numbers: Numbers = table.numpy()
        heads, by_lane = numbers[self._heads], numbers[self._lanes]
        counts = LaneCounts(by_lane[:, 0], by_lane[:, 1:], max(1, int(heads[:, -2].max())))
        dtypes = heads[heads[:, -2] > 0, -1]
        return TableRead(
            counts,
            self._by_sender(counts.tokens_L),
            self._by_sender(counts.rows_by_lane),
            DTYPES[int(dtypes[0]) if len(dtypes) else 0],
        )

    def _by_sender(self, values_L: Numbers) -> list[int]:
        sums: list[int] = np.add.reduceat(values_L, self._first_lanes).tolist()
        return sums
