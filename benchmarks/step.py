"""One worker's step against the same transformers model trained by a plain PyTorch loop, side by side.

    python benchmarks/step.py [--steps N] [--size small|medium|wide] [--device cpu|cuda] [--precision float32|bfloat16]

All train the same job from the same initial values on the same tokens, one thread each, taking turns step by step, so
that a noisy neighbour meets all: ours under `determinism: layout`, ours under `off`, and the plain loop, which trains
in the job's precision without float32 masters. Prints the plain loop's time over ours (tokens per second relative to
it), and the price of the bits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dougong.accelerators.base import switch_on_determinism
from dougong.accelerators.registry import get_accelerator
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
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
    contestants = make_contestants(options.size, options.precision, options.experts, device)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in range(1, options.steps + 3):
        for name, (is_deterministic, run) in contestants.items():
            if is_deterministic:
                switch_on_determinism()
            else:
                torch.use_deterministic_algorithms(False)
            took = timed(partial(run, step), device)
            if step > 2:  # the first two warm up
                seconds[name].append(took)
    words = f"{options.precision}, plain loop with {options.experts} experts, {options.steps} steps each, one thread"
    print(f"size {options.size} on {device_name(device)}, {words}")
    report(seconds, tokens_of_step(options.size))


Contestants = dict[str, tuple[bool, Callable[[int], object]]]
"""Name -> whether torch's deterministic forms are on, and what runs a step."""


def make_contestants(size: str, precision: str, experts: str, device: torch.device) -> Contestants:
    def ours(determinism: str) -> Callable[[int], object]:
        job = make_job(size, precision=precision, determinism=determinism)
        rig = make_rig(job, world=World.alone(device))
        return lambda step: rig.stepper.run(step, rig.forwards(step))

    job = make_job(size)
    model = reference_model(job).to(device, DTYPES[precision])
    model.config._experts_implementation = experts
    return {
        "dougong": (True, ours("layout")),
        "dougong, determinism off": (False, ours("off")),
        "plain loop": (False, plain_step(job, model)),
    }


def tokens_of_step(size: str) -> int:
    return BATCH["lanes"] * BATCH["microbatches"] * BATCH["microbatch_size"] * SEQUENCES[size]


def device_name(device: torch.device) -> str:
    return "the processor" if device.type == "cpu" else torch.cuda.get_device_name()


def report(seconds: dict[str, list[float]], num_tokens: int) -> None:
    """Every contestant's median, and ratios step by step: of tokens/s over the plain loop's, of time over `off`."""
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:<25} {median:.3f} s a step, {num_tokens / median:.0f} tokens/s")
    print(f"ratio of tokens/s: {in_words(seconds['plain loop'], seconds['dougong'])}")
    print(f"time of layout over off: {in_words(seconds['dougong'], seconds['dougong, determinism off'])}")


def in_words(above: list[float], below: list[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"median {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
