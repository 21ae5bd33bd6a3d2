"""A step over two hosts against one, at full speed and over slow links.

    python benchmarks/hosts.py [--layouts EP|AFD ...] [--steps N] [--rounds N] [--rates MB_PER_S ...]

Hosts are namespaces of this machine (`dougong.testing`), so both share its cores: what two hosts cost is the network
between them, of which full speed is this kernel's own. Two layouts of four workers: expert parallelism (both roles
everywhere) and attention apart from experts. Each case is a run of its own; cases take turns round by round. Printed
are the medians of all steps but the first two of a run, ratios of medians by round, and the floor: the bytes that the
plan says leave or reach a host, whichever are more, over the link's rate. Needs root.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from dougong.records.directory import RunDir
from dougong.testing import Lab
from tests.families import config_values

RUN_S = 300
MEGA = 1e6
WARM_UP = 2
HOSTS = ("10.0.0.1", "10.0.0.2")


@dataclass(frozen=True)
class Case:
    """A layout on these two hosts (the same one twice: on one), over a link of this rate."""

    layout: str
    hosts: tuple[str, str]
    mb_s: float | None

    @property
    def name(self) -> str:
        if self.hosts[0] == self.hosts[1]:
            return "one host"
        return "two hosts" if self.mb_s is None else f"two hosts, {self.mb_s:g} MB/s"

    def islands(self) -> list[dict[str, Any]]:
        roles = ("both", "both") if self.layout == "EP" else ("attention", "experts")
        return [
            {"name": name, "accelerator": "cpu", "workers": 2, "role": role, "node": node}
            for name, role, node in zip(("east", "west"), roles, self.hosts, strict=True)
        ]


@dataclass(frozen=True)
class Found:
    """Of one run: seconds of each step, and the bytes that the busier way of the link has by the plan and really."""

    step_s: list[float]
    planned: float
    sent: float
    last_loss: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layouts", nargs="+", choices=["EP", "AFD"], default=["EP", "AFD"])
    parser.add_argument("--rates", type=float, nargs="*", default=[10.0, 1.0], help="of slow links, MB/s")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2, since a spread is printed")
    for layout in options.layouts:
        with Lab(num_hosts=2) as lab:
            cases = list(cases_of(layout, options.rates))
            report(layout, take_turns(lab, cases, options.steps, options.rounds))


def take_turns(lab: Lab, cases: Sequence[Case], steps: int, rounds: int) -> dict[Case, list[Found]]:
    address = lab.start_ray().address
    found: dict[Case, list[Found]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            found[case].append(run(lab, address, case, steps, number))
    return found


def cases_of(layout: str, rates: Sequence[float]) -> Iterator[Case]:
    yield Case(layout, (HOSTS[0], HOSTS[0]), None)
    for rate in (None, *rates):
        yield Case(layout, HOSTS, rate)


def run(lab: Lab, address: str, case: Case, steps: int, number: int) -> Found:
    name = f"{case.layout}-{case.name}-{number}".replace(" ", "-").replace(",", "").replace("/", "")
    path, run_dir = lab.shared / f"{name}.yaml", lab.shared / "runs" / name
    path.write_text(yaml.safe_dump(job(case, steps)))
    lab.limit(case.mb_s)
    words = ["dougong", "run", str(path), "--address", address, "--run-dir", str(run_dir)]
    done = lab.hosts[0].run(words, timeout_s=RUN_S)
    lab.limit(None)
    if done.status:
        raise SystemExit(done.output)
    rows = RunDir(run_dir).read_metrics()
    planned, sent = busier_way(rows[-1]["traffic"]["links"])
    times = [row["step_s"] for row in rows[WARM_UP:]]
    return Found(times, planned, sent, rows[-1]["loss"])


def job(case: Case, steps: int) -> dict[str, Any]:
    return {
        "job": "hosts",
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe") | {"num_experts": 8}},
        "data": {"text": "stdlib", "sequence_length": 64},
        "batch": {"lanes": 4, "microbatches": 2, "microbatch_size": 1},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "router": {"global_loss": 0.1},
        "steps": steps,
        "checkpoint": {"every": 0},
        "islands": case.islands(),
    }


def busier_way(links: dict[str, Any]) -> tuple[float, float]:
    """Bytes of a step from east to west or back, as planned and as sent, of the way with more planned ones."""
    ways = [links["east > west"], links["west > east"]]
    amounts = [(sum(way["planned"].values()), sum(way["sent"].values())) for way in ways]
    return max(amounts)


def report(layout: str, found: dict[Case, list[Found]]) -> None:
    (losses,) = {tuple(of.last_loss for of in runs) for runs in found.values()}  # the same bits, however they ran
    assert len(set(losses)) == 1
    planned = next(iter(found.values()))[0].planned
    sent = statistics.median(of.sent for runs in found.values() for of in runs)
    print(f"{layout}: {planned / MEGA:.3f} MB a step one way by the plan, {sent / MEGA:.3f} MB sent")
    one, *_ = found.values()
    for case, runs in found.items():
        times = [second for of in runs for second in of.step_s]
        ratios = [median_of(of) / median_of(alone) for of, alone in zip(runs, one, strict=True)]
        low, _, high = statistics.quantiles(times, n=4)
        taken = f"{statistics.median(times):.3f} s a step, quartiles {low:.3f} to {high:.3f}"
        floor = "" if case.mb_s is None else f", floor {sent / MEGA / case.mb_s:.3f} s"
        spread = f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"  {case.name:<22} {taken}{floor}; over one host: {spread}")


def median_of(found: Found) -> float:
    return statistics.median(found.step_s)


if __name__ == "__main__":
    main()
