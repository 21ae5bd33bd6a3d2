"""What it costs to compare numbers with their copies, how many flips are caught, and what share an audit sees.

    python benchmarks/integrity.py cost [--size small|medium] [--rounds N]
    python benchmarks/integrity.py flips [--count N] [--seed S]
    python benchmarks/integrity.py audit [--every N] [--count N] [--rate P] [--seed S]

One worker, which sends its messages to itself. `cost`: at 8192 tokens a step, the sums of state, copies and messages,
and a step that is audited, each over the step. `flips`: one bit at a random place of the state or of a message, and
whether the step ends before it is committed; beside it as many steps without one. `audit`: one bit of an activation
at random steps, against the share that the formula gives.

Exit status 1 where less than 99 % of flips of a kind are caught, a step without one is ended, or an audit sees a share
that the formula gives in less than one of a thousand samples of that size.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step import BATCH, SIZES, make_job, timed
from dougong.errors import CorruptionError
from dougong.parallel.comm.message import SplitTensor
from dougong.parallel.exchange.expected import Outgoing
from dougong.training.audit import Audit
from dougong.training.integrity.held_state import HeldState
from dougong.training.state import held_state_of
from tests.jobs import Rig, RigForwards, make_rig
from tests.jobs import make_job as make_tiny_job

CPU = torch.device("cpu")
CAUGHT, UNLIKELY = 0.99, 0.001


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cost", "flips", "audit"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each kind")
    parser.add_argument("--count", type=int, default=200, help="flips")
    parser.add_argument("--every", type=int, default=4, help="an audit every so many steps")
    parser.add_argument("--rate", type=float, default=0.5, help="of a fault that comes again: its part of all steps")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    if options.what == "cost":
        cost(options.size, options.rounds)
        return 0
    if options.what == "flips":
        return 0 if flips(options.count, chance) else 1
    return 0 if audited(options.every, options.count, options.rate, chance) else 1


# What it costs


class Stopwatch:
    """Seconds spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.seconds += time.perf_counter() - begun

        return run


def cost(size: str, rounds: int) -> None:
    rig = make_rig(make_job(size, batch={**BATCH, "microbatch_size": 2 * BATCH["microbatch_size"]}))
    parts, state, messages = rig.stepper.parts, Stopwatch(), Stopwatch()
    guard: Any = parts.guard
    exchange: Any = parts.exchange
    guard.look, guard.note = state.around(guard.look), state.around(guard.note)
    exchange._note = messages.around(exchange._note)
    audit = Audit(rig.stepper, RigForwards(rig), 1)  # type: ignore[arg-type]
    rows: list[tuple[float, float, float, float]] = []
    for step in range(1, 2 * rounds + 3):
        looked = step % 2 == 0
        state.seconds = messages.seconds = 0.0
        given = audit if looked else None
        seconds = timed(lambda: rig.stepper.run(step, rig.forwards(step), audit=given), CPU)  # noqa: B023
        if looked and step > 2:
            rows[-1] = (*rows[-1][:3], seconds)
        elif step > 2:
            rows.append((seconds, state.seconds, messages.seconds, 0.0))
    steps = [row[0] for row in rows]
    tell("sums of state and copies, of a step", [row[1] for row in rows], steps)
    tell("sums of messages, of a step", [row[2] for row in rows], steps)
    tell("an audited step, of one that is not", [row[3] for row in rows], steps)


def tell(what: str, ours: list[float], theirs: list[float]) -> None:
    low, median, high = statistics.quantiles([100 * a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    medians = f"{1e3 * statistics.median(ours):.4g} ms of {1e3 * statistics.median(theirs):.4g} ms"
    print(f"{what}: median {median:.3g} %, quartiles {low:.3g} to {high:.3g} % ({medians})", flush=True)


# How many flips are caught


def flips(count: int, chance: random.Random) -> bool:
    """Whether enough are caught, and no step is ended without one."""
    rig = make_rig(make_tiny_job(precision="bfloat16"))
    rig.stepper.run(1, rig.forwards(1))
    state = held_state_of(rig.replica, rig.stepper.optimizer)
    caught, all_of = Counter[str](), Counter[str]()
    false_alarms = 0
    for step in range(2, count + 2):
        kind, undo = flip_state(state, chance) if chance.random() < 0.5 else flip_message(rig, chance)
        all_of[kind] += 1
        caught[kind] += ends(rig, step)
        undo()
        false_alarms += ends(rig, step)
    for kind in sorted(all_of):
        share = f"{caught[kind] / all_of[kind]:.1%}".replace("%", " %")
        print(f"flips in {kind}: {caught[kind]} of {all_of[kind]} caught before the step was committed ({share})")
    print(f"steps without a flip: {false_alarms} of {count} ended", flush=True)
    return not false_alarms and all(caught[kind] >= CAUGHT * all_of[kind] for kind in all_of)


def ends(rig: Rig, step: int, audit: Audit | None = None) -> bool:
    """Whether the step ends by what it finds."""
    try:
        rig.stepper.run(step, rig.forwards(step), audit=audit)
    except CorruptionError:
        return True
    return False


def flip_state(state: HeldState, chance: random.Random) -> tuple[str, Callable[[], None]]:
    tensors = dict(state.tensors())
    key = chance.choice(sorted(tensors))
    undo = flip(tensors[key], chance)
    return {"model": "weights", "compute copy": "compute copies"}.get(key[0], "moments"), undo


def flip_message(rig: Rig, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """In one of the messages of the next step, on its way."""
    exchange = rig.stepper.parts.exchange
    left = [chance.randrange(2 * len(rig.stepper.parts.share.message_order) // 2)]

    def wire(kind: Any, key: Any, outgoing: Outgoing) -> Outgoing:
        left[0] -= 1
        if left[0] >= 0:
            return outgoing
        exchange.wire = None
        parts = [SplitTensor(part.values.clone(), part.sizes) for part in outgoing.parts]
        flip(chance.choice([part for part in parts if part.values.is_floating_point()]).values, chance)
        return Outgoing(parts, outgoing.table)

    exchange.wire = wire
    return "messages", lambda: None


def flip(tensor: torch.Tensor, chance: random.Random) -> Callable[[], None]:
    """Any bit of it; what flips it back."""
    data = tensor.detach().reshape(-1).view(torch.uint8)
    place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
    data[place] ^= bit

    def undo() -> None:
        data[place] ^= bit

    return undo


# What an audit sees


def share_caught(every: int, steps: int, rate: float) -> float:
    """Of faults that come in a part `rate` of all steps, each by chance, the part that an audit of every so many
    steps has seen within `steps`: it has looked at steps // every of them. One that comes once is seen in 1 / every."""
    return 1.0 - (1.0 - rate) ** (steps // every)


def likely(count: int, share: float) -> tuple[float, float]:
    """The least and the most of `count` in which something of this probability happens, by the binomial distribution:
    fewer, or more, come in less than half of `UNLIKELY` each."""

    def at_most(number: int) -> float:
        ways = (math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(number + 1))
        return math.fsum(ways)

    inside = [k for k in range(count + 1) if at_most(k) >= UNLIKELY / 2 and 1 - at_most(k - 1) >= UNLIKELY / 2]
    return inside[0] / count, inside[-1] / count


def audited(every: int, count: int, rate: float, chance: random.Random) -> bool:
    """Whether what is seen is what the formula gives, and no step is ended without a flip."""
    rig = make_rig(make_tiny_job())
    audit = Audit(rig.stepper, RigForwards(rig), every)  # type: ignore[arg-type]
    caught = 0
    for step in range(1, count + 1):
        spoil_activation(rig, chance)
        caught += ends(rig, step, audit)
    print(f"once, in each of {count} steps: {caught / count:.3f} seen before the commit, 1/{every} = {1 / every:.3f}")
    is_good = caught == count // every
    waited = [steps_until_caught(rig, audit, rate, chance) for _ in range(max(2, count // 8))]
    for steps in (every, 2 * every, 4 * every):
        seen = sum(one <= steps for one in waited) / len(waited)
        formula = share_caught(every, steps, rate)
        low, high = likely(len(waited), formula)
        print(f"again and again, in {rate:g} of all steps: {seen:.3f} of {len(waited)} seen within {steps} steps, "
              f"formula {formula:.3f} ({low:.3f} to {high:.3f} of so many)")  # fmt: skip
        is_good = is_good and low <= seen <= high
    clean = sum(ends(rig, step, audit) for step in range(1, count + 1))
    print(f"steps without a flip: {clean} of {count} ended", flush=True)
    return is_good and not clean


def steps_until_caught(rig: Rig, audit: Audit, rate: float, chance: random.Random) -> int:
    step = 0
    while True:
        step += 1
        if chance.random() < rate:
            spoil_activation(rig, chance)
        if ends(rig, step, audit):
            return step


def spoil_activation(rig: Rig, chance: random.Random) -> None:
    """Any mantissa bit of a number in the first message of the next step, where it was computed."""
    exchange = rig.stepper.parts.exchange

    def watch(kind: Any, key: Any, outgoing: Outgoing) -> Outgoing:
        exchange.watch = None
        numbers = outgoing.parts[0].values.view(torch.int32).view(-1)
        numbers[chance.randrange(len(numbers))] ^= 1 << chance.randrange(23)
        return outgoing

    exchange.watch = watch


if __name__ == "__main__":
    sys.exit(main())
