"""How much of a step comes to each worker, with experts chosen evenly: shapes of a job and a plan.
Imports no torch.

Legend: T tokens of a micro-batch, K choices, H hidden size, I inner size of an expert, b bytes of a
value; R rows that come to a worker with experts, V vectors that leave one with lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dougong.job.schema import Job
from dougong.parallel.activations import SegmentBytes
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.needs.dense_units import UnitBytes
from dougong.planner.needs.holdings import copy_bytes, dense_groups
from dougong.planner.needs.programs import num_sites
from dougong.planner.needs.tiles import product_rows

NO_SEGMENT = SegmentBytes(0, 0, 0, 0)


@dataclass(frozen=True)
class StepShapes:
    """What of a job's shapes is the same for all workers, and how much comes to each."""

    job: Job
    inventory: Inventory
    plan: Plan

    @cached_property
    def tokens(self) -> int:
        """T."""
        return self.job.batch.microbatch_size * self.job.data.sequence_length

    @cached_property
    def unit_bytes(self) -> UnitBytes | None:
        """Of dense tensors that come and go; None where they stay."""
        if self.job.dense == "copy":
            return None
        buckets, groups = dense_groups(self.job, self.inventory, self.plan)
        assert self.inventory.units is not None
        return UnitBytes.of(self.inventory.units, buckets, groups)

    @cached_property
    def choices(self) -> int:
        """K."""
        return self.inventory.experts_per_token

    @cached_property
    def vector(self) -> int:
        """Bytes of one token's vector: H b."""
        return self.inventory.hidden_size * copy_bytes(self.job)

    @cached_property
    def inner(self) -> int:
        """Bytes of one row inside an expert: I b."""
        shapes = dict(self.inventory.expert_shapes)
        size = shapes["down_proj"][-1] if "down_proj" in shapes else self._inner_size()
        return size * copy_bytes(self.job)

    def _inner_size(self) -> int:
        """Of an expert whose tensors have other names: as if it were the usual one."""
        return self.inventory.expert_parameters // max(1, 3 * self.inventory.hidden_size)

    @cached_property
    def holders(self) -> list[tuple[int, ...]]:
        """Experts by site, of each worker that has some."""
        counts = [tuple(map(len, worker.experts)) for worker in self.plan.workers]
        return [count for count in counts if any(count)]

    @cached_property
    def vectors_by_site(self) -> list[int]:
        """V of one lane."""
        found = []
        for site in range(num_sites(self.plan)):
            found.append(sum(self.crossing(count[site]) for count in self.holders))
        return found

    def crossing(self, num_experts: int) -> int:
        """Of one lane's tokens, how many are routed to one of so many experts."""
        others = self.plan.num_experts - num_experts
        choices = min(self.choices, self.plan.num_experts)
        missing = math.comb(others, choices) / math.comb(self.plan.num_experts, choices)
        return math.ceil(self.tokens * (1 - missing))

    def rows(self, num_experts: int) -> int:
        """R, of all lanes."""
        all_rows = self.plan.num_lanes * self.tokens * self.choices
        return math.ceil(all_rows * num_experts / max(1, self.plan.num_experts))

    def segments(self, accelerator: str) -> tuple[SegmentBytes, ...]:
        for known in self.inventory.activations:
            if known.accelerator == accelerator and known.segments:
                return known.segments
        return (NO_SEGMENT,) * (num_sites(self.plan) + 1)

    def padded_rows(self, num_experts: int) -> int:
        """M: rows after tiles were filled up, each expert's last one by half as a rule; as many as
        come where a block is a product."""
        height = product_rows(self.job, self.plan.num_experts, self.choices)
        rows = self.rows(num_experts)
        if not isinstance(height, int) or not num_experts:
            return rows
        return rows + num_experts * height // 2

    @cached_property
    def is_tiled(self) -> bool:
        """Whether rows are copied into tiles, expert by expert."""
        return product_rows(self.job, self.plan.num_experts, self.choices) != "block"
