"""One worker's step against the same transformers model trained by a plain PyTorch loop, side by side.

    python benchmarks/step.py [--steps N] [--size small|medium|wide] [--device cpu|cuda] [--precision float32|bfloat16]

All train the same job from the same initial values on the same tokens, one thread each, taking turns step by step, so
that a noisy neighbour meets all: ours under `determinism: layout`, the same with a ledger, ours under `off`, and the
plain loop, which trains in the job's precision without float32 masters. Prints the plain loop's time over ours (tokens
per second relative to it), and the price of the bits and of the ledger; each by the clock and in processor time, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dougong.accelerators.base import switch_on_determinism
from dougong.accelerators.registry import get_accelerator
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.training.build import LedgerStart, StepOptions
from dougong.training.replica import DTYPES
from tests.jobs import VOCAB, make_rig
from tests.reference import plain_step, reference_model

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 128,
        "moe_intermediate_size": 128,
        "intermediate_size": 256,
        "head_dim": 32,
    },
    "medium": {
        "hidden_size": 512,
        "moe_intermediate_size": 512,
        "intermediate_size": 1024,
        "head_dim": 64,
    },
    # For a GPU: two layers of the width of Qwen3-30B-A3B, with half of its experts.
    "wide": {
        "num_hidden_layers": 2,
        "hidden_size": 2048,
        "moe_intermediate_size": 768,
        "intermediate_size": 6144,
        "head_dim": 128,
        "num_attention_heads": 32,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
}
SEQUENCES = {"small": 256, "medium": 256, "wide": 1024}
BATCH = {"lanes": 4, "microbatches": 2, "microbatch_size": 2}


def make_job(size: str, **changes: Any) -> Job:
    """The quickstart's model (or a wider one) with the quickstart's batch. `changes` replace whole sections."""
    config = {
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 16,
        "num_experts_per_tok": 4, "vocab_size": VOCAB,
        **SIZES[size],
    }  # fmt: skip
    return Job.model_validate({
        "job": "benchmark",
        "model": {"family": "qwen3_moe", "config": config},
        "data": {"text": "stdlib", "sequence_length": SEQUENCES[size]},
        "batch": BATCH,
        "steps": 1000,
        "islands": [{"name": "east", "accelerator": "cpu"}],
        **changes,
    })  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Seconds of one step, by the clock and of the processor."""

    clock: float
    processor: float


def spent(run: Callable[[], object], device: torch.device) -> Spent:
    worked = time.process_time()
    clock = timed(run, device)
    return Spent(clock, time.process_time() - worked)


def timed(run: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument(
        "--experts",
        choices=["eager", "grouped_mm"],
        default="eager",
        help="the plain loop's experts",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = get_accelerator(options.device).open(0)
    with tempfile.TemporaryDirectory() as scratch:
        contestants = make_contestants(options.size, options.precision, options.experts, device, Path(scratch))
        taken = take_turns(contestants, options.steps, device)
    words = f"{options.precision}, plain loop with {options.experts} experts, {options.steps} steps each, one thread"
    print(f"size {options.size} on {device_name(device)}, {words}")
    report(taken, tokens_of_step(options.size))


def take_turns(contestants: Contestants, steps: int, device: torch.device) -> dict[str, list[Spent]]:
    taken: dict[str, list[Spent]] = {name: [] for name in contestants}
    for step in range(1, steps + 3):
        for name, (is_deterministic, run) in contestants.items():
            if is_deterministic:
                switch_on_determinism()
            else:
                torch.use_deterministic_algorithms(False)
            took = spent(partial(run, step), device)
            if step > 2:  # the first two warm up
                taken[name].append(took)
    return taken


Contestants = dict[str, tuple[bool, Callable[[int], object]]]
"""Name -> whether torch's deterministic forms are on, and what runs a step."""


def make_contestants(size: str, precision: str, experts: str, device: torch.device, scratch: Path) -> Contestants:
    def ours(determinism: str, ledger: LedgerStart | None = None) -> Callable[[int], object]:
        job = make_job(size, precision=precision, determinism=determinism)
        rig = make_rig(job, world=World.alone(device), options=StepOptions(ledger=ledger))
        return lambda step: rig.stepper.run(step, rig.forwards(step))

    job = make_job(size)
    model = reference_model(job).to(device, DTYPES[precision])
    model.config._experts_implementation = experts
    return {
        "dougong": (True, ours("layout")),
        "dougong with a ledger": (True, ours("layout", LedgerStart(scratch / "ledger"))),
        "dougong, determinism off": (False, ours("off")),
        "plain loop": (False, plain_step(job, model)),
    }


def tokens_of_step(size: str) -> int:
    return BATCH["lanes"] * BATCH["microbatches"] * BATCH["microbatch_size"] * SEQUENCES[size]


def device_name(device: torch.device) -> str:
    return "the processor" if device.type == "cpu" else torch.cuda.get_device_name()


def report(taken: dict[str, list[Spent]], num_tokens: int) -> None:
    """Every contestant's medians, and ratios step by step: of tokens/s over the plain loop's, and of time."""
    for name, steps in taken.items():
        clock, processor = (statistics.median(getattr(one, kind) for one in steps) for kind in KINDS)
        print(f"{name:<25} {clock:.3f} s a step, {num_tokens / clock:.0f} tokens/s, {processor:.3f} processor s")
    for kind in KINDS:
        seconds = {name: [getattr(one, kind) for one in steps] for name, steps in taken.items()}
        ours = seconds["dougong"]
        what = "tokens/s" if kind == "clock" else "tokens per processor second"
        print(f"ratio of {what}: {in_words(seconds['plain loop'], ours)}")
        print(f"{kind} time of layout over off: {in_words(ours, seconds['dougong, determinism off'])}")
        print(f"{kind} time with a ledger over without: {in_words(seconds['dougong with a ledger'], ours)}")


KINDS = ("clock", "processor")


def in_words(above: list[float], below: list[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"median {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
