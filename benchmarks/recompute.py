"""`recompute: layers` against `none`: the time of a step, and the peak of what a step's operators keep.

    python benchmarks/recompute.py [--layers N] [--steps N] [--tokens N] [--precision float32|bfloat16]

Time: one worker with all of the model, one thread, both taking turns step by step; prints the time of `layers` over
that of `none`. Memory: an attention worker beside an experts worker (zebra), bytes of tensors alive as operators make
them and storages go; prints the peak of each and their ratio, with the lane's gradients, which are the same in both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from dougong.job.schema import Job
from tests.families import config_values
from tests.jobs import make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.step_peaks import peaks_of_steps

WAYS = ("none", "layers")


def job_of(options: argparse.Namespace, recompute: str, hidden: int) -> Job:
    config = config_values(
        "qwen3_moe",
        num_hidden_layers=options.layers,
        hidden_size=hidden,
        head_dim=hidden // 4,
        moe_intermediate_size=hidden // 2,
        max_position_embeddings=options.tokens,
    )
    return make_job(
        model={"family": "qwen3_moe", "config": config},
        data={"text": "stdlib", "sequence_length": options.tokens},
        batch={"lanes": 1, "microbatches": 2, "microbatch_size": 2},
        precision=options.precision,
        recompute=recompute,
    )


def times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step, by way; the first two warm up."""
    rigs = {way: make_rig(job_of(options, way, options.hidden)) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for step in range(1, options.steps + 3):
        for way, rig in rigs.items():
            forwards = rig.forwards(step)
            begun = time.process_time() if options.cpu else time.perf_counter()
            rig.stepper.run(step, forwards)
            ended = time.process_time() if options.cpu else time.perf_counter()
            if step > 2:
                seconds[way].append(ended - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=256, help="hidden size of the model whose steps are timed")
    parser.add_argument("--steps", type=int, default=9, help="timed steps of each")
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence; a micro-batch has two")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--cpu", action="store_true", help="processor seconds, where others use the machine too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = f"qwen3_moe, {options.layers} layers, 2 micro-batches of 2 x {options.tokens} tokens, {options.precision}"
    print(f"{words}; hidden {options.hidden}, {options.steps} steps each, one thread")
    seconds = times(options)
    for way, taken in seconds.items():
        print(f"{way:<8} {statistics.median(taken):.3f} s a step")
    ratios = [layers / none for none, layers in zip(*seconds.values(), strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    print(f"time of layers over none: median {statistics.median(ratios):.3f}, quartiles {low:.3f} to {high:.3f}")
    jobs = [job_of(options, way, 64) for way in WAYS]
    none, layers = run_workers(peaks_of_steps, plan_for(jobs[0], "AE"), jobs)[0]
    print(f"peak of an attention worker, hidden 64: {none / 1e6:.1f} and {layers / 1e6:.1f} MB, {layers / none:.3f}")


if __name__ == "__main__":
    main()
