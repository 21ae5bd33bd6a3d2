"""What planning costs by the number of workers: the pure functions of a plan, from 8 to 10,000 workers.

    python benchmarks/scale.py [--workers 8 64 512 4096 10000] [--rounds N] [--limit S] [--only WORDS ...]

The job has the shapes of DeepSeek-V3 with 512 experts a layer: 61 layers with experts, attention and experts apart,
seven lanes for four attention workers. Nothing is sent, and no device used. Rounds of all sizes alternate. Of each
function: seconds (median, lowest to highest), and at the largest size the time of a worker over that at the smallest:
above 1 it grows faster than the number of workers. A call that takes longer than `--limit` seconds is given up and not
repeated, nor is it tried at a larger size.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dougong.cli.plan import plan_table, room_lines
from dougong.cli.tables import print_table
from dougong.cli.traffic import print_traffic
from dougong.job.schema import Job
from dougong.parallel.assign import lane_shares
from dougong.parallel.dense.doubling import Doubling
from dougong.parallel.dense.halving import Halving, share_of
from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, make_plan
from dougong.parallel.replica_holders import replica_holders
from dougong.parallel.schedules.message_order import message_order
from dougong.parallel.schedules.simulate import simulate
from dougong.parallel.tree import LaneTree
from dougong.planner.needs.programs import programs_of, prove
from dougong.planner.needs.snapshot_bytes import snapshot_bytes
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.plan_job import elementwise_rule, plan_job
from dougong.tools.plan_chart import alike_in, cost_of
from dougong.training.traffic import flows_of_step

LAYERS, EXPERTS, CHOICES = 61, 512, 8
DENSE = {
    "q_a": (1536, 7168),
    "q_b": (24576, 1536),
    "kv_a": (576, 7168),
    "kv_b": (32768, 512),
    "o": (7168, 16384),
    "norm_in": (7168,),
    "norm_out": (7168,),
    "gate": (EXPERTS, 7168),
    "shared_gate": (2048, 7168),
    "shared_up": (2048, 7168),
    "shared_down": (7168, 2048),
}
NODE = 8
"""Workers of a node."""


class TooLongError(Exception):
    """A call has had its time."""


def inventory() -> Inventory:
    """The shapes of DeepSeek-V3, with twice its experts."""
    tensors = [TensorSpec(name, (129280, 7168), True) for name in ("embed", "head")]
    for layer in range(LAYERS):
        tensors += [TensorSpec(f"layers.{layer}.{name}", shape, True) for name, shape in DENSE.items()]
    sites = tuple(f"layers.{layer}.experts" for layer in range(LAYERS))
    shapes = (("down_proj", (7168, 2048)), ("gate_up_proj", (4096, 7168)))
    return Inventory("deepseek_v3", tuple(tensors), sites, EXPERTS, shapes, CHOICES, hidden_size=7168)


@dataclass(frozen=True)
class Size:
    """A job of so many workers: as many of each role as an experts worker has experts to hold."""

    num_workers: int

    @cached_property
    def counts(self) -> dict[str, int]:
        """Workers by role."""
        experts = min(self.num_workers // 2, EXPERTS)
        return {"attention": self.num_workers - experts, "experts": experts}

    @cached_property
    def job(self) -> Job:
        islands = [{"name": r, "accelerator": "cpu", "role": r, "workers": n} for r, n in self.counts.items()]
        lanes = 7 * self.counts["attention"] // 4
        values = {
            "job": "scale",
            "model": {"family": "deepseek_v3", "config": {}},
            "data": {"text": "stdlib", "sequence_length": 4096},
            "batch": {"lanes": lanes, "microbatches": 8, "microbatch_size": 1},
            "optimizer": {"name": "adamw", "lr": 1e-4},
            "precision": "bfloat16",
            "steps": 1,
            "seed": 0,
            "islands": islands,
        }
        return Job.model_validate(values)

    @cached_property
    def model(self) -> Inventory:
        return inventory()

    @cached_property
    def seats(self) -> list[Seat]:
        places: list[Seat] = []
        for role, count in self.counts.items():
            for index in range(count):
                node = f"{role}-{index // NODE}"
                places.append(Seat(f"{role}/{index}", role, role, node, f"cpu:{index % NODE}"))
        return places

    @cached_property
    def plan(self) -> Plan:
        return plan_job(self.job, self.model, self.seats)

    @cached_property
    def on_one_node(self) -> Plan:
        """As `dougong plan` sees it, whose islands are pinned to no node."""
        workers = [dataclasses.replace(worker, node="-") for worker in self.plan.workers]
        return dataclasses.replace(self.plan, workers=tuple(workers))

    @cached_property
    def text(self) -> str:
        return self.plan.to_json()

    @cached_property
    def speeds(self) -> list[float]:
        return [1 + (index % 7) / 7 for index in range(self.counts["attention"])]

    def halving(self) -> Halving:
        tree = LaneTree(self.plan.num_lanes)
        return Halving(tree, {w.rank: tree.held(w.lanes) for w in self.plan.workers if w.lanes})

    def doubling(self) -> Doubling:
        return Doubling([w.rank for w in self.plan.workers if w.lanes])


def printed(size: Size) -> str:
    """What `dougong plan` says once it knows the model and the plan."""
    made, job, model = size.on_one_node, size.job, size.model
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        memories = needed_memory(job, model, made)
        print_table(plan_table(made, [memory.state for memory in memories]))
        print(*room_lines(job, model, made, memories, 120), sep="\n")
        print_traffic(job, model, made)
    return said.getvalue()


def simulated(size: Size) -> float:
    """The time of a step."""
    cost = cost_of(size.job, size.plan, size.model)
    return simulate(programs_of(size.job, size.plan), cost, alike=alike_in(size.plan)).makespan_s


CASES: dict[str, Callable[[Size], object]] = {
    "make_plan": lambda size: make_plan(size.job.batch.lanes, size.model, size.seats, None, elementwise_rule(size.job)),
    "lane_shares, seven speeds": lambda size: lane_shares(size.job.batch.lanes, size.speeds),
    "plan_job": lambda size: plan_job(size.job, size.model, size.seats),
    "Plan.to_json": lambda size: size.plan.to_json(),
    "Plan.from_json": lambda size: Plan.from_json(size.text),
    "prove, after the first": lambda size: prove(size.job, size.plan),
    "programs, message order": lambda size: message_order(programs_of(size.job, size.plan)),
    "lanes that all hold": lambda size: size.halving(),
    "one worker's part of the sum": lambda size: share_of(size.halving(), sorted(set(size.plan.owners.values())), 0),
    "one worker's part of the spread": lambda size: size.doubling().rounds(sorted(set(size.plan.owners.values())), 0),
    "replica holders": lambda size: replica_holders(size.plan, 1),
    "replica holders, nodes unknown": lambda size: replica_holders(size.on_one_node, 1),
    "bytes of snapshots": lambda size: snapshot_bytes(size.job, size.model, size.plan),
    "bytes of a step": lambda size: flows_of_step(size.job, size.model, size.plan),
    "simulate": simulated,
    "what `dougong plan` prints": printed,
}
OF_SEATS = {"make_plan", "plan_job", "lane_shares, seven speeds"}
"""These need no plan."""


def timed(case: Callable[[Size], object], size: Size, limit_s: int) -> float | None:
    """Seconds of one call; None: given up."""
    signal.alarm(limit_s)
    try:
        begun = time.perf_counter()
        case(size)
        return time.perf_counter() - begun
    except TooLongError:
        return None
    finally:
        signal.alarm(0)


def give_up(*_: object) -> None:
    raise TooLongError


def measure(sizes: list[Size], names: list[str], options: argparse.Namespace) -> None:
    times: dict[tuple[str, int], list[float]] = {}
    late: dict[str, int] = {}
    for size in sizes:
        if timed(lambda size: size.text, size, options.limit) is None:
            late |= dict.fromkeys(set(CASES) - OF_SEATS, size.num_workers)
            break
    turns = itertools.product(range(options.rounds), names, sizes)
    for _, name, size in turns:
        if size.num_workers >= late.get(name, sys.maxsize):
            continue
        seconds = timed(CASES[name], size, options.limit)
        if seconds is None:
            late[name] = size.num_workers
        else:
            times.setdefault((name, size.num_workers), []).append(seconds)
    for name in names:
        tell(name, sizes, times, late.get(name), options.limit)


def tell(
    name: str, sizes: list[Size], times: dict[tuple[str, int], list[float]], late: int | None, limit_s: int
) -> None:
    words = []
    for size in sizes:
        found = times.get((name, size.num_workers))
        if late is not None and size.num_workers >= late:
            words.append(f"{size.num_workers:,}: > {limit_s} s")
            break
        if found:
            median = statistics.median(found)
            words.append(f"{size.num_workers:,}: {median:.3g} s ({min(found):.3g} to {max(found):.3g})")
    print(f"{name}: " + "; ".join(words) + growth(name, sizes, times))


def growth(name: str, sizes: list[Size], times: dict[tuple[str, int], list[float]]) -> str:
    """The time of a worker, at the largest size over the smallest."""
    each = [statistics.median(found) / of for (case, of), found in times.items() if case == name]
    return f"; a worker's time {each[-1] / each[0]:.2f} of that at {sizes[0].num_workers}" if len(each) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 512, 4096, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=60, help="seconds of a call")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="functions whose name has one of these words")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, for a spread")
    names = [name for name in CASES if not options.only or any(word in name for word in options.only)]
    signal.signal(signal.SIGALRM, give_up)
    sizes = [Size(number) for number in sorted(options.workers)]
    measure(sizes, names, options)


if __name__ == "__main__":
    main()
