"""One worker's step against the same transformers model trained by a plain PyTorch loop, side by side.

    python benchmarks/step.py [--pairs N] [--steps N] [--size small|medium]

Both train the same job from the same initial values on the same tokens, one thread each, taking turns step by step, so
that a noisy neighbour meets both. Prints the plain loop's time over ours (tokens per second relative to it).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dougong.job.schema import Job
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
}


def make_job(size: str) -> Job:
    """The quickstart's model (or a wider one) with the quickstart's batch."""
    config = {
        **SIZES[size],
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 16,
        "num_experts_per_tok": 4, "vocab_size": VOCAB,
    }  # fmt: skip
    return Job.model_validate({
        "job": "benchmark",
        "model": {"family": "qwen3_moe", "config": config},
        "data": {"text": "stdlib", "sequence_length": 256},
        "batch": {"lanes": 4, "microbatches": 2, "microbatch_size": 2},
        "steps": 1000,
        "islands": [{"name": "east", "accelerator": "cpu"}],
    })  # fmt: skip


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
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
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = make_job(options.size)
    rig, model = make_rig(job), reference_model(job)
    model.config._experts_implementation = options.experts
    plain = plain_step(job, model)
    ours, theirs, ratios = [], [], []
    for step in range(1, options.steps + 3):
        a = timed(lambda: rig.stepper.run(step, rig.forwards(step)))  # noqa: B023
        b = timed(lambda: plain(step))  # noqa: B023
        if step > 2:  # the first two warm up
            ours.append(a), theirs.append(b), ratios.append(b / a)
    tokens = 4 * 2 * 2 * 256
    quartiles = statistics.quantiles(ratios, n=4)
    print(f"size {options.size}, plain loop with {options.experts} experts, {options.steps} steps each, one thread")
    print(f"dougong    {statistics.median(ours):.3f} s a step, {tokens / statistics.median(ours):.0f} tokens/s")
    print(f"plain loop {statistics.median(theirs):.3f} s a step, {tokens / statistics.median(theirs):.0f} tokens/s")
    low, _, high = quartiles
    print(f"ratio of tokens/s: median {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
