"""What is done about a step whose loss or gradient norm is NaN or infinite: skip it, or stop and
say where that began.

The step itself leaves such an update out (`step`). Here is how many of them a job stands, and the
search for the place: the step is computed once more, from the same weights, with a watch that looks
at every value on its way. That is slow, and done only when the run is lost anyway.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from dougong.control.worker_api import Control
from dougong.control.worker_messages import StepRepeated, UpdateSkipped
from dougong.data.windows import TokenWindows
from dougong.errors import PeerError
from dougong.job.schema import Fault
from dougong.ops.finite import num_not_finite
from dougong.parallel.comm.world import World
from dougong.parallel.execute.executor import Executor, ExecutorOptions
from dougong.parallel.trace.finite_watch import FiniteWatch
from dougong.parallel.trace.trace_key import TraceKey
from dougong.training.integrity.evidence import WrongNumbers
from dougong.training.integrity.guard import blame
from dougong.training.results.reports import LossKey, NotFinite, StepResult
from dougong.training.step import ForwardsOf, Stepper, WorkerShare

_ADVICE = (
    "where weights have grown, begin anew with a lower optimizer.lr or an optimizer.clip_norm; "
    "`dougong resume` with {} leaves such steps out"
)
_MOST_WINDOWS = 64
MOST_NAMES = 3
"""So many of a kind are named in one error, and the others counted."""


class SkippedSteps:
    """Counts steps without an update, in a row. The same on every worker, since results are.

    `listed`: those that the run has left out before: a recovery leaves out the same ones.
    """

    def __init__(self, fault: Fault, listed: Collection[int] = ()) -> None:
        self._fault = fault
        self.listed = frozenset(listed)
        self.in_a_row = 0

    def must_stop(self, result: StepResult) -> bool:
        """Whether the run ends with this step. To be asked once of every step."""
        if not result.is_skipped:
            self.in_a_row = 0
            return False
        self.in_a_row += 1
        return self._fault.non_finite == "stop" or self.in_a_row > self._fault.max_skips

    def tell(
        self, control: Control, result: StepResult, data: TokenWindows, verdict: str = ""
    ) -> None:
        """Tell the controller of a step that was left out, or computed twice. `data`: what it was
        computed on; `verdict`: what an audit has found of it. One worker does."""
        if result.is_skipped:
            message = skip_message(result, self.in_a_row, data)
            control.send(dataclasses.replace(message, where=f"{message.where}{verdict}"))
        elif result.was_not_finite is not None:
            control.send(StepRepeated(result.step, where(result.was_not_finite)))


def numbers(result: StepResult) -> str:
    """The two numbers that everybody knows of a step."""
    return f"loss {result.loss:.6g}, gradient norm {result.grad_norm:.6g}"


def where(found: NotFinite) -> str:
    """What of a step is not finite, as far as its reports say it."""
    parts = []
    if found.losses:
        places = [f"lane {lane} micro-batch {number}" for lane, number in found.losses]
        parts.append(f"the loss of {_some(places)}")
    if found.gradients:
        parts.append(f"the gradient of {_some(sorted(found.gradients, key=_natural))}")
    return f"not finite: {'; '.join(parts)}"


def explain(stepper: Stepper, result: StepResult, forwards: ForwardsOf, in_a_row: int) -> str:
    """Everything about a step that ends the run, in words: the same on every worker. Computes the
    step once more. Collective. `in_a_row`: steps without an update, this one counted.

    Raises CorruptionError, or PeerError on all workers but one, where it is finite then: the step
    is redone, and the run goes on.
    """
    known = "" if result.not_finite is None else where(result.not_finite)
    advice = _ADVICE.format("`-o fault.non_finite=skip`")
    begin = f"step {result.step}: {numbers(result)}, so no weight was moved"
    if in_a_row > 1:
        advice = _ADVICE.format("a larger `-o fault.max_skips=`")
        begin += f"; {in_a_row - 1} in a row before it were skipped (fault.max_skips)"
    try:
        looks = _look_together(stepper, result.step, forwards)
    except PeerError:
        raise  # somebody else's end, which that worker tells itself
    except Exception as error:
        # What was seen is worth more than why it could not be looked at more closely.
        reason = f"the place was not found: {type(error).__name__}: {error}"
        return "; ".join(part for part in (begin, known, reason, advice) if part)
    if not any(look.place is not None or look.sums or look.state for look in looks):
        _blame_a_machine(stepper.parts.world, result, known)
    place = _first_place(looks, stepper.parts.share.replica.cut.names)
    parts = (begin, place, known, _weights(looks), advice)
    return "; ".join(part for part in parts if part)


def _blame_a_machine(world: World, result: StepResult, known: str) -> NoReturn:
    """Of several workers nobody knows which one it was: an audit would."""
    alone = world.size == 1
    whose = "" if alone else "; `-o fault.audit=N` names the worker"
    text = f"{numbers(result)}; {known}; computed once more, every value is finite{whose}"
    blame(world, result.step, WrongNumbers(text, (0,) if alone else ()))


def skip_message(result: StepResult, in_a_row: int, data: TokenWindows) -> UpdateSkipped:
    """What the controller is told of a step without its update. `data`: what it was computed on."""
    found = result.not_finite
    first, last = data.samples(result.step)
    windows: list[int] = []
    for lane, microbatch in () if found is None else found.losses:
        windows += data.windows(result.step, lane, microbatch)
    return UpdateSkipped(
        step=result.step,
        loss=result.loss,
        grad_norm=result.grad_norm,
        where="as it was before" if found is None else where(found),
        in_a_row=in_a_row,
        first_sample=first,
        last_sample=last,
        windows=tuple(windows[:_MOST_WINDOWS]),
        times=1 if result.was_not_finite is None else 2,
    )


def validation_words(step: int, losses: Mapping[LossKey, float]) -> str:
    """What of a validation is not finite. `losses` by (batch, lane)."""
    bad = [key for key in sorted(losses) if not math.isfinite(losses[key])]
    places = [f"batch {number} of lane {lane} ({losses[number, lane]:g})" for number, lane in bad]
    return f"step {step}: the validation loss is not finite: {_some(places)}"


@dataclass(frozen=True)
class _Look:
    """What one worker saw when the step was computed once more.

    place: the first that is not finite; sums: tensors whose gradient's norm is not; state: weights
    and optimizer state that are not; largest: the largest weight and its name.
    """

    place: TraceKey | None
    sums: tuple[str, ...]
    state: tuple[str, ...]
    largest: tuple[float, str]

    def encode(self) -> bytes:
        place = None if self.place is None else self.place.to_list()
        return json.dumps([place, self.sums, self.state, self.largest]).encode()

    @staticmethod
    def decode(payload: bytes) -> _Look:
        place, sums, state, largest = json.loads(payload)
        key = None if place is None else TraceKey(*place)
        return _Look(key, tuple(sums), tuple(state), (largest[0], largest[1]))


def _look_together(stepper: Stepper, step: int, forwards: ForwardsOf) -> list[_Look]:
    """What all workers see, by rank. Collective."""
    parts = stepper.parts
    share = parts.share
    watch = FiniteWatch(step, parts.gradients.leaves)
    executor = Executor(
        share.replica.cut,
        share.dispatcher,
        share.shard,
        parts.exchange,
        parts.clock,
        ExecutorOptions(after_forward=parts.hooks.after_forward, tracer=watch, units=parts.gathers),
    )
    again = Stepper(dataclasses.replace(parts, executor=executor, tracer=watch))
    gradients = again.gradients(step, forwards).tensors
    look = _Look(watch.first, _sums(gradients), _state(share), _largest(share))
    payloads = parts.world.gather_bytes(look.encode(), what="what is not finite")
    return [_Look.decode(payload) for payload in payloads]


def _sums(gradients: dict[str, Tensor]) -> tuple[str, ...]:
    norms = {name: torch.linalg.vector_norm(g) for name, g in gradients.items()}
    return _names_not_finite(norms)


def _state(share: WorkerShare) -> tuple[str, ...]:
    """Weights and state that this worker owns, and compute copies in another precision."""
    tensors = dict(share.replica.masters)
    tensors |= {f"{kind} of {name}": value for kind, name, value in share.optimizer.state()}
    for name, copy in share.replica.copies:
        if copy.dtype != torch.float32:
            tensors[f"compute copy of {name}"] = copy
    return _names_not_finite(tensors)


def _names_not_finite(tensors: dict[str, Tensor]) -> tuple[str, ...]:
    found: list[str] = []
    for device in {tensor.device for tensor in tensors.values()}:
        there = {name: tensor for name, tensor in tensors.items() if tensor.device == device}
        counts = num_not_finite(list(there.values()))
        found += [name for name, count in zip(there, counts, strict=True) if count]
    return tuple(name for name in tensors if name in found)


def _largest(share: WorkerShare) -> tuple[float, str]:
    found = (0.0, "")
    for name, master in share.replica.masters.items():
        if master.is_floating_point() and master.numel():
            found = max(found, (float(master.abs().nan_to_num(0.0).max()), name))
    return found


def _first_place(looks: Sequence[_Look], sites: Sequence[str]) -> str:
    places = [look.place for look in looks if look.place is not None]
    if places:
        first = min(places, key=lambda place: place.order)
        return f"computed once more, the first value that is not finite: {first.describe(sites)}"
    sums: list[str] = []
    for look in looks:
        sums += look.sums
    if sums:
        names = _some(sorted(sums, key=_natural))
        return f"every value is finite, but sums over the gradient of {names} overflow float32"
    return "computed once more, every value is finite"


def _weights(looks: Sequence[_Look]) -> str:
    bad: list[str] = []
    for look in looks:
        bad += look.state
    if bad:
        names = _some(sorted(bad, key=_natural))
        return f"weights or optimizer state are not finite: {names}"
    value, name = max(look.largest for look in looks)
    return f"all weights are finite, the largest is {value:.3g} in {name}"


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - MOST_NAMES
    text = ", ".join(names[:MOST_NAMES])
    return f"{text} and {more} more" if more > 0 else text


def _natural(name: str) -> list[Any]:
    """Sorts names by the numbers in them: layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
