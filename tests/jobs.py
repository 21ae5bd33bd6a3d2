"""Jobs and parts of workers for tests, small enough for two cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from dougong.accelerators.registry import get_accelerator
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.ops.counter_rng import torch_seed
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan, Seat, make_plan
from dougong.parallel.segments.flight import Forward
from dougong.planner.plan_job import elementwise_rule
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.load_balance import Load
from dougong.training.replica import Replica
from dougong.training.state import open_start
from dougong.training.step import Stepper
from tests.families import config_values
from torch import Tensor

VOCAB = 256


def make_job(family: str = "qwen3_moe", **changes: Any) -> Job:
    """A job of three steps over 2 lanes x 2 micro-batches of 2 x 16 tokens; `changes` replace whole sections."""
    values: dict[str, Any] = {
        "job": "test",
        "model": {"family": family, "config": config_values(family)},
        "data": {"text": "stdlib", "sequence_length": 16},
        "batch": {"lanes": 2, "microbatches": 2, "microbatch_size": 2},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "steps": 3,
        "seed": 7,
        "islands": [{"name": "east", "accelerator": "cpu"}],
    }
    return Job.model_validate(values | changes)


def plan_for(job: Job, roles: str = "B") -> Plan:
    """A plan with one worker per letter: A attention, E experts, B both."""
    names = {"A": "attention", "E": "experts", "B": "both"}
    seats = [Seat(f"east/{i}", "east", names[r], "node", f"cpu:{i}") for i, r in enumerate(roles)]
    rule = elementwise_rule(job)
    return make_plan(job.batch.lanes, inspect_model(job.model, VOCAB), seats, is_elementwise=rule)


def tokens(job: Job, step: int, lane: int, microbatch: int) -> Tensor:
    """Made-up token ids [microbatch_size, sequence_length] of one micro-batch."""
    generator = torch.Generator().manual_seed(1 + step * 10007 + lane * 101 + microbatch)
    return torch.randint(3, VOCAB, (job.batch.microbatch_size, job.data.sequence_length), generator=generator)


@dataclass
class Rig:
    """One worker, put together without processes around it."""

    job: Job
    plan: Plan
    replica: Replica
    stepper: Stepper

    def forwards(self, step: int) -> Callable[[int], Mapping[int, Forward]]:
        lanes = self.plan.workers[self.rank].lanes

        def of(microbatch: int) -> Mapping[int, Forward]:
            return {lane: self._forward(step, lane, microbatch) for lane in lanes}

        return of

    rank: int = 0

    def _forward(self, *place: int) -> Forward:
        ids = tokens(self.job, *place).to(self.stepper.parts.share.blueprint.device)

        def seed(segment: int) -> None:
            torch.manual_seed(torch_seed(self.job.seed, *place, segment))

        return Forward(lambda: self.replica.model(input_ids=ids, labels=ids, use_cache=False).loss, seed)

    def note_state(self) -> None:
        """What weights are now was set by hand; else a step takes it for a fault."""
        guard = self.stepper.parts.guard
        assert guard is not None
        guard.note()

    def run(self, steps: int) -> list[float]:
        return [self.stepper.run(s, self.forwards(s)).loss for s in range(1, steps + 1)]

    @property
    def load(self) -> Load:
        """That of the newest step's experts."""
        return self.stepper.parts.balance.load

    def loads(self, steps: int) -> list[Load]:
        """Those of so many steps from the first on."""
        loads = []
        for step in range(1, steps + 1):
            self.stepper.run(step, self.forwards(step))
            loads.append(self.load)
        return loads


class RigForwards:
    """As `Forwards`, of a rig that has all lanes."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def of_step(self, step: int, lanes: Any = None) -> Callable[[int], Mapping[int, Forward]]:
        return self._rig.forwards(step)


def make_rig(job: Job, plan: Plan | None = None, world: World | None = None, options: StepOptions | None = None) -> Rig:
    """Build one worker's replica and stepper from initial values, or those of the job's folder."""
    torch.set_num_threads(1)
    plan = plan or plan_for(job)
    world = world or World.alone()
    device = world.member.device
    blueprint = build_model(job, VOCAB, device, get_accelerator(device.type).expert_operators())
    with open_start(job, blueprint.names, None) as start:
        stepper = rebuild(blueprint, plan, world, start, options or StepOptions())
    return Rig(job, plan, stepper.parts.share.replica, stepper, world.rank)
