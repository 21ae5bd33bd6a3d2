"""Attention and experts apart: how much of the busier side's time a schedule reaches, on emulated devices.

    python benchmarks/afd.py efficiency [--layers 8] [--microbatches 8] [--rounds N] [--unit-ms T]
    python benchmarks/afd.py sweep [--rounds N] [--unit-ms T]
    python benchmarks/afd.py overhead [--rounds N]

Workers are real processes with the real executor, transport and gradients of a small model; `emulate:` makes each
segment, experts call and message take the time it is told to, asleep. `efficiency`: one attention worker, one experts
worker, with HeterMoE's measured shares of time T_A : T_E : T_comm (arXiv 2504.03871, table 3: 0.63 : 1 : 0.31 and
0.90 : 1 : 0.32), schedules taking turns; the bound is the busier side's total. `sweep`: two attention workers and one
to four experts workers, short and long sequences: tokens per second and worker. `overhead`: microseconds of an
operation that computes nothing, one worker.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.determinism import ask, join, worker_pool
from dougong.accelerators.base import thread_environment
from dougong.job.schema import Job
from dougong.parallel.schedules.operation import Operation
from tests.jobs import VOCAB, make_rig, plan_for

PIPELINES = ("serial", "zebra", "af_pipe")
SHARES = ((0.63, 1.0, 0.31), (0.90, 1.0, 0.32))
REACHED = {SHARES[0]: 1.73, SHARES[1]: 1.97}
"""HeterMoE's own speed-ups over naive disaggregation at these shares."""
TOKENS, CHOICES = 32, 2


@dataclass(frozen=True)
class Setting:
    """Milliseconds that a forward takes: a segment of one lane, an experts call of one lane's micro-batch if one worker
    holds all experts, and a message."""

    layers: int
    microbatches: int
    segment_ms: float
    experts_ms: float
    message_ms: float

    def bound_s(self) -> float:
        """The busier side's total: a backward takes twice a forward; there is one more segment than experts calls."""
        sides = self.segment_ms * (self.layers + 1), self.experts_ms * self.layers
        return 3 * self.microbatches * max(sides) / 1e3


def job_of(setting: Setting, pipeline: str, lanes: int) -> Job:
    """A qwen3_moe as small as it can be, so that the emulated time is the time."""
    config = {
        "hidden_size": 16, "moe_intermediate_size": 8, "intermediate_size": 16, "head_dim": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": setting.layers, "num_experts": 8, "vocab_size": VOCAB,
        "num_experts_per_tok": CHOICES,
    }  # fmt: skip
    emulate = {
        "attention_ms": setting.segment_ms,
        "expert_ms_per_1k_tokens": 1000.0 * setting.experts_ms / (TOKENS * CHOICES),
        "link": {"latency_ms": setting.message_ms},
    }
    return Job.model_validate({
        "job": "benchmark",
        "model": {"family": "qwen3_moe", "config": config},
        "data": {"text": "stdlib", "sequence_length": TOKENS},
        "batch": {"lanes": lanes, "microbatches": setting.microbatches},
        "steps": 1000,
        "pipeline": pipeline,
        "islands": [{"name": "east", "accelerator": "cpu", "emulate": emulate}],
    })  # fmt: skip


def worker(rank: int, workers: int, port: int, pipe: Any, roles: str, jobs: dict[str, Job]) -> None:
    """Answers with the seconds of one step's forwards and backwards under a schedule."""
    world = join(rank, workers, port)
    rigs = {name: make_rig(job, plan_for(job, roles), world) for name, job in jobs.items()}
    step = 0
    while (name := pipe.recv()) is not None:
        step += 1
        rig = rigs[name]
        world.barrier()
        begun = time.perf_counter()
        rig.stepper.forward_backward(step, rig.forwards(step))
        world.barrier()
        pipe.send(time.perf_counter() - begun)
    world.leave()


def efficiency(options: argparse.Namespace) -> None:
    for shares in SHARES:
        t_a, t_e, t_c = (share * options.unit_ms for share in shares)
        # T_comm is that of a layer's four messages, T_A and T_E those of a forward and a backward
        setting = Setting(options.layers, options.microbatches, t_a, t_e, 3 * t_c / 4)
        jobs = {name: job_of(setting, name, 1) for name in PIPELINES}
        with worker_pool(2, worker, thread_environment(1), "AE", jobs) as pipes:
            turns = [{name: ask(pipes, name) for name in PIPELINES} for _ in range(options.rounds + 1)][1:]
        print(f"T_A : T_E : T_comm = {' : '.join(map(str, shares))}; T_E {t_e:g} ms, bound {setting.bound_s():.3f} s")
        for name in PIPELINES:
            tell(f"  {name}: bound / measured", [setting.bound_s() / turn[name] for turn in turns])
            tell(f"  {name}: faster than serial", [turn["serial"] / turn[name] for turn in turns])
        print(f"  HeterMoE reports {REACHED[shares]} over naive disaggregation, 0.89 of its bound")


def sweep(options: argparse.Namespace) -> None:
    for what, share in (
        ("short sequences, T_A = 0.25 T_E", 0.25),
        ("long sequences, T_A = 1.0 T_E", 1.0),
    ):
        print(f"two attention workers, {what} (of one lane on one experts worker)")
        for experts in range(1, 5):
            setting = Setting(4, 4, share * options.unit_ms, options.unit_ms, 0.05 * options.unit_ms)
            jobs = {"zebra": job_of(setting, "zebra", 2)}
            roles = "AA" + "E" * experts
            with worker_pool(len(roles), worker, thread_environment(1), roles, jobs) as pipes:
                seconds = [ask(pipes, "zebra") for _ in range(options.rounds + 1)][1:]
            tokens = 2 * setting.microbatches * TOKENS
            tell(f"  2 : {experts}: tokens/s and worker", [tokens / s / len(roles) for s in seconds])


def overhead(options: argparse.Namespace) -> None:
    job = job_of(Setting(8, 4, 1.0, 1.0, 0.0), "colocated", 1)
    islands = [{"name": "east", "accelerator": "cpu"}]
    rig = make_rig(Job.model_validate({**job.model_dump(), "islands": islands}))
    executor, seconds = rig.stepper.parts.executor, []
    executor.run_operation = _timed(executor.run_operation, seconds)
    for step in range(1, options.rounds + 2):
        if step == 2:
            seconds.clear()
        rig.stepper.forward_backward(step, rig.forwards(step))
    tell("sending or receiving a message to oneself, microseconds", [1e6 * s for s in seconds])


def _timed(run: Any, seconds: list[float]) -> Any:
    def timed(operation: Operation) -> None:
        begun = time.perf_counter()
        run(operation)
        if not operation.kind.computes:
            seconds.append(time.perf_counter() - begun)

    return timed


def tell(what: str, values: Sequence[float]) -> None:
    low, median, high = statistics.quantiles(values, n=4)
    print(f"{what}: median {median:.3f}, quartiles {low:.3f} to {high:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in (efficiency, sweep, overhead):
        part = kinds.add_parser(kind.__name__)
        part.add_argument("--rounds", type=int, default=5, help="timed steps of each")
        part.add_argument("--unit-ms", type=float, default=20.0, help="what T_E is")
        part.set_defaults(run=kind)
        if kind is efficiency:
            part.add_argument("--layers", type=int, default=8)
            part.add_argument("--microbatches", type=int, default=8)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since quartiles are printed")
    options.run(options)


if __name__ == "__main__":
    main()
