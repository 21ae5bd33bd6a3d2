"""The update on the host (DeepSpeed's CPU Adam) against torch's fused AdamW, both on the processor.

    python benchmarks/optimizer.py [--numbers N] [--tensors N] [--rounds N] [--threads N]

The two take turns on the same gradients, over the same tensors. Prints time over time; below 1 the host's is faster.
Needs `dougong[deepspeed]` and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.step import timed
from dougong.training.optimizers.base import Optimizer
from dougong.training.optimizers.registry import make_optimizer
from tests.jobs import make_job

CPU = torch.device("cpu")
BYTES_A_NUMBER = 28
"""Read: weight, gradient, two moments; written: all but the gradient."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, default=1 << 22, help="in each tensor")
    parser.add_argument("--tensors", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    torch.set_num_threads(options.threads)
    gradients = {f"t{i}": torch.randn(1, options.numbers) for i in range(options.tensors)}
    host, worker = (optimizer(device, gradients) for device in ("host", "worker"))
    times: dict[str, list[float]] = {"host": [], "worker": []}
    before = os.getloadavg()[0]
    for round_ in range(options.rounds + 2):
        for name, rule in (("host", host), ("worker", worker)):
            seconds = timed(lambda: rule.step(gradients, 1e-3), CPU)  # noqa: B023
            if round_ > 1:  # the first makes the moments
                times[name].append(seconds)
    tell(times, options, before)


def optimizer(device: str, gradients: dict[str, Any]) -> Optimizer:
    masters = {name: torch.randn_like(gradient) for name, gradient in gradients.items()}
    return make_optimizer(make_job(optimizer={"device": device}), masters)


def tell(times: dict[str, list[float]], options: argparse.Namespace, load: float) -> None:
    ratios = [a / b for a, b in zip(times["host"], times["worker"], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    total = options.tensors * options.numbers
    rates = {name: BYTES_A_NUMBER * total / statistics.median(found) / 1e9 for name, found in times.items()}
    medians = ", ".join(
        f"{name} {1e3 * statistics.median(found):.4g} ms ({rates[name]:.3g} GB/s)" for name, found in times.items()
    )
    print(f"host over torch: median {median:.3g}, quartiles {low:.3g} to {high:.3g}; {medians}")
    print(
        f"{options.tensors} tensors of {options.numbers} numbers, {options.threads} threads, {options.rounds} rounds, "
        f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )


if __name__ == "__main__":
    main()
