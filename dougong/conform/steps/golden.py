"""Fifty steps of a small model on a device: its losses against the processor's, its bits against
its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, Result, method, require
from dougong.conform.operators.products import reads_tf32
from dougong.conform.steps.tiny import VOCABULARY, job_of
from dougong.fingerprint.record import digest
from dougong.job.schema import Job
from dougong.models.configs.parts import text_config
from dougong.models.inventory import inspect_model
from dougong.ops.counter_rng import torch_seed
from dougong.ops.experts.base import ExpertOp
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan, Seat, make_plan
from dougong.parallel.segments.flight import Forward
from dougong.planner.plan_job import elementwise_rule
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.replica import ModelBlueprint
from dougong.training.state import StartState, open_start
from dougong.training.step import Stepper

GROUP = "training"
STEPS = 50
FIRST_STEPS = 5
"""Before rounding has grown: there a loss that differs is a fault of one step."""
FIRST_BOUND, BOUND = 2e-5, 1e-3
"""Parts of the loss. Other float32 kernels were seen to give up to 2e-7 in the first steps and 2e-6
in all."""
TF32_FACTOR = 50.0
"""Products that read ten bits of a mantissa round so much more: 2e-4 and 3e-3 were seen."""


@dataclass(frozen=True)
class Trained:
    """What some steps came to: a loss each, and the digest of all weights at the end."""

    losses: tuple[float, ...]
    digest: str


def golden_checks() -> Iterator[Check]:
    yield Check("fifty steps", GROUP, "training", _golden)
    yield method("the same steps again", GROUP, "training, from run to run", _twice)


def plan_of(job: Job) -> Plan:
    """One worker that does everything."""
    seat = Seat("here/0", "here", "both", "here", "cpu:0")
    model, rule = inspect_model(job.model, _vocabulary(job)), elementwise_rule(job)
    return make_plan(job.batch.lanes, model, [seat], is_elementwise=rule)


def blueprint_of(job: Job, bed: Bed, device: torch.device) -> ModelBlueprint:
    """The job's model for this device, or for the processor beside it."""
    fused: Iterator[ExpertOp] = iter(())
    if device.type == bed.device.type:
        fused = bed.accelerator.expert_operators()
    return build_model(job, _vocabulary(job), device, fused)


def _vocabulary(job: Job) -> int | None:
    return None if job.model.path else VOCABULARY


def stepper_of(
    job: Job, blueprint: ModelBlueprint, plan: Plan, start: StartState | None = None
) -> Stepper:
    """What trains it alone, from the state `start` (None: the folder's weights, or initial
    values)."""
    world = World.alone(blueprint.device)
    if start is not None:
        return rebuild(blueprint, plan, world, start, StepOptions())
    with open_start(job, blueprint.names, None) as begun:
        return rebuild(blueprint, plan, world, begun, StepOptions())


def train(job: Job, stepper: Stepper, steps: range) -> list[float]:
    """The losses of some steps on tokens that are drawn anew for each."""
    return [stepper.run(step, _forwards(job, stepper, step)).loss for step in steps]


def _forwards(job: Job, stepper: Stepper, step: int) -> Callable[[int], Mapping[int, Forward]]:
    blueprint = stepper.parts.share.blueprint
    model = stepper.parts.share.replica.model

    def of(microbatch: int) -> Mapping[int, Forward]:
        found = {}
        for lane in range(job.batch.lanes):
            ids = tokens(job, blueprint, step, lane, microbatch).to(blueprint.device)
            found[lane] = Forward(lambda ids=ids: _loss(model, ids))  # type: ignore[misc]
        return found

    return of


def _loss(model: torch.nn.Module, ids: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def tokens(job: Job, blueprint: ModelBlueprint, *place: int) -> Tensor:
    """Ids [sequences, tokens] of a text in which one word follows from the one before."""
    generator = torch.Generator().manual_seed(torch_seed(job.seed, *place))
    shape = (job.batch.microbatch_size, job.data.sequence_length)
    steps = torch.randint(1, 4, shape, generator=generator)
    return steps.cumsum(-1) % min(int(text_config(blueprint.config).vocab_size), 61)


def weights_digest(stepper: Stepper) -> str:
    """Of all weights, in the order of their names."""
    found = hashlib.blake2b(digest_size=16)
    for name, master in sorted(stepper.parts.share.replica.masters.items()):
        data = master.detach().to(CPU).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        found.update(f"{name} {digest(data)}\n".encode())
    return found.hexdigest()


def trained(bed: Bed, device: torch.device, steps: int = STEPS) -> Trained:
    """Train the small model on a device from its initial values."""
    job = job_of()
    stepper = stepper_of(job, blueprint_of(job, bed, device), plan_of(job))
    losses = train(job, stepper, range(1, steps + 1))
    stepper.close()
    return Trained(tuple(losses), weights_digest(stepper))


def _golden(bed: Bed) -> Result:
    found, exact = trained(bed, bed.device).losses, trained(bed, CPU).losses
    apart = [abs(a - b) / abs(b) for a, b in zip(found, exact, strict=True)]
    first, whole = _largest(apart[:FIRST_STEPS]), _largest(apart)
    factor = TF32_FACTOR if reads_tf32(bed.device) else 1.0
    words = [
        *_too_far(f"the first {FIRST_STEPS} steps", first, factor * FIRST_BOUND),
        *_too_far(f"all {STEPS} steps", whole, factor * BOUND),
    ]
    if not exact[-1] < 0.8 * exact[0]:
        words.append(f"the processor's own loss has not fallen: {exact}")
    return Result(tuple(words), (_remark(exact, first, whole),))


def _largest(values: Sequence[float]) -> float:
    """One that is no number is larger than any."""
    return max(math.inf if math.isnan(value) else value for value in values)


def _remark(losses: tuple[float, ...], first: float, whole: float) -> str:
    return (
        f"loss {losses[0]:.4f} to {losses[-1]:.4f}; off by {first:.1e} of it in the first "
        f"{FIRST_STEPS} steps, by {whole:.1e} in all {STEPS}"
    )


def _too_far(steps: str, apart: float, bound: float) -> Iterator[str]:
    if apart > bound:
        yield f"a loss of {steps} is off by {apart:.1e} of it, at most {bound:.1e} is allowed"


def _twice(bed: Bed) -> None:
    first, again = trained(bed, bed.device, FIRST_STEPS), trained(bed, bed.device, FIRST_STEPS)
    require(first.losses == again.losses, "other losses when it is trained again")
    require(first.digest == again.digest, "other weights when it is trained again")
