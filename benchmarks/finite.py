"""What it costs to look whether everything is finite.

    python benchmarks/finite.py [--size small|medium] [--rounds N]

In a step: the decision whether its update is made, over the step itself, taking turns. In a save, beside training: the
look at every value, over the digest of the same bytes. Prints time over time, in per cent.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step import SIZES, make_job, timed
from dougong.checkpoint.disk import digest
from dougong.checkpoint.tensorfile import num_not_finite
from dougong.training.results.reports import StepReport, find_not_finite
from tests.jobs import Rig, make_rig

CPU = torch.device("cpu")
DECISIONS = 1000
"""Made in one timing: one alone is too short for the clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    torch.set_num_threads(1)
    rig = make_rig(make_job(options.size))
    decide = decision_of(rig)
    step_times, decision_times = [], []
    for step in range(1, options.rounds + 3):
        seconds = timed(lambda: rig.stepper.run(step, rig.forwards(step)), CPU)  # noqa: B023
        decision = timed(decide, CPU) / DECISIONS
        if step > 2:  # the first two warm up
            step_times.append(seconds), decision_times.append(decision)
    tell("the decision, of a step", decision_times, step_times)
    look, hashing = times_of_a_save(rig, options.rounds)
    tell("the look of a save, of its digests (beside training)", look, hashing)


def decision_of(rig: Rig) -> Callable[[], None]:
    """Decides as often as `DECISIONS` says, about a step as it should be."""
    (form,) = rig.stepper.parts.share.forms
    losses = dict.fromkeys(form.losses, 5.5)
    reports = [StepReport(False, 0.0, losses, dict.fromkeys(form.squares, 0.01))]

    def decide() -> None:
        for _ in range(DECISIONS):
            assert find_not_finite(5.5, 1.7, losses, reports) is None

    return decide


def times_of_a_save(rig: Rig, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to look at all weights, and to take their digests."""
    tensors = [master.numpy().reshape(-1).data.cast("B") for master in rig.replica.masters.values()]

    def look() -> None:
        assert not any(num_not_finite(data, "F32") for data in tensors)

    def take_digests() -> None:
        for data in tensors:
            digest(data)

    pairs = [(timed(look, CPU), timed(take_digests, CPU)) for _ in range(rounds + 1)][1:]
    return [a for a, _ in pairs], [b for _, b in pairs]


def tell(what: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    low, median, high = statistics.quantiles([100 * a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    medians = f"{1e3 * statistics.median(ours):.4g} ms of {1e3 * statistics.median(theirs):.4g} ms"
    print(f"{what}: median {median:.3g} %, quartiles {low:.3g} to {high:.3g} % ({medians})", flush=True)


if __name__ == "__main__":
    main()
