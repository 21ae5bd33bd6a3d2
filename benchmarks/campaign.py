"""Injections of every row of the vocabulary, each held against the class and culprit that a diagnosis must give.

    python benchmarks/campaign.py [--seed N] [--times N] [--only PLACE_OR_ROW ...] [--most N] [--folder DIR]

Three places, for a row is tried where it can be done: `here` (the small job of `dougong drill` on this machine: its
workers of each role, their agents and fork servers, the controller), `disk` (toy workers on one host of a lab: storage
that is full, frozen, spoilt; root), `hosts` (the small job over Ray on five hosts of a lab: machines, cables, clocks,
Ray; root). Each row comes `--times` times, on a worker of another role each time; whom it meets, how long it lasts and
how far apart a pair is come from the seed. A line for each goes to DIR/campaign.jsonl; what this software has
done is not done again, so `--most` and `--minutes` make portions. Exit status 1 when fewer than 99 of 100 are right.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from benchmarks.kept import KeptLines
from dougong.control.environment import child_environment
from dougong.control.messages import OrderDrill
from dougong.deadlines import DEADLINES
from dougong.job.drills.vocabulary import FAULTS, MOST_APART_S, NamedFault, has_worker, known_fault
from dougong.launcher.client import ask_controller
from dougong.records.directory import RunDir
from dougong.records.events import DrillFired, Event, FailureDiagnosed, FirstStep, RecoveryDecided, RunEnded
from dougong.testing import HostProcess, LabError
from dougong.tools.drill.hosts import LABEL, DrillHosts
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.score import ScoredFault, Struck, judge
from dougong.tools.drill.small_job import WORKERS, islands, small_job
from dougong.tools.drill.strike import MemoryOfRun, spoil, strike

LINES = "campaign.jsonl"
RIGHT = 0.99
CALM_S, OVER_S, START_S = 90.0, 150.0, 120.0
AFTER_S = 1.5
"""So long after the end of what need not be named it is waited for what is named in error."""
RAY_S = 30.0
"""Ray's own looks at its parts take so long."""
HANG_S = 6.0
"""So long after the second fault of a pair, which may hide behind the first."""
ENDLESS = 10**6
MOST_RUNS = 3
DEVICE = {"attention_ms": 8.0, "expert_ms_per_1k_tokens": 4.0}
"""Workers that sleep for the most part of a step: nothing else on the machine is held up by a campaign."""
LASTS_S = {"pause": (0.3, 1.5), "slow_cpu": (3.0, 8.0), "zombie_return": (14.0, 20.0), "stop_controller": (4.0, 28.0)}


@dataclass(frozen=True)
class Injection:
    """`key`: seed, row and turn, from which everything about it is drawn."""

    key: str
    fault: NamedFault
    worker: str

    @property
    def chance(self) -> random.Random:
        return random.Random(self.key)

    @property
    def for_s(self) -> float | None:
        """None: for good, or a moment."""
        if self.fault.lasts_s is None:
            return None
        least, most = LASTS_S.get(self.fault.name, (self.fault.lasts_s, self.fault.lasts_s))
        return round(self.chance.uniform(least, most), 1)


def planned(seed: int, times: int) -> list[Injection]:
    """All of them, each row once before any comes again."""
    found = []
    for turn in range(times):
        for number, fault in enumerate(FAULTS):
            worker = WORKERS[(number + turn) % len(WORKERS)] if has_worker(fault.name) else ""
            found.append(Injection(f"{seed}/{fault.name}/{turn}", fault, worker))
    return found


def place_of(fault: NamedFault) -> str:
    if "hosts" not in fault.needs:
        return "here"
    return "disk" if fault.target == "storage" and fault.name != "freeze_on_one_node" else "hosts"


class Place:
    """A run without an end, and how it is struck. A context."""

    run_dir: RunDir

    def __enter__(self) -> Place:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def has_ended(self) -> bool:
        raise NotImplementedError

    def output(self) -> str:
        raise NotImplementedError

    def strike(self, injection: Injection) -> list[Struck]:
        raise NotImplementedError

    def heal(self, injection: Injection) -> None:
        """All is as it was."""


class Here(Place):
    """The small job on this machine, in a control group of its own where that can be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> None:
        path = self._folder / f"here-{time.time_ns()}"
        job = path.with_suffix(".yaml")
        at_work = [{**island, "emulate": DEVICE} for island in islands()]
        values = small_job(steps=ENDLESS, drill="allowed", checkpoint={"every": 20}, islands=at_work)
        job.write_text(yaml.safe_dump(values))
        words = [sys.executable, "-m", "dougong", "run", str(job), "--no-ray", "--run-dir", str(path)]
        self._memory = MemoryOfRun()
        with path.with_suffix(".out").open("w") as out:
            self._process = subprocess.Popen(words, env=child_environment({}), stdin=subprocess.DEVNULL, stdout=out,
                                             stderr=out, start_new_session=True)  # fmt: skip
        with contextlib.suppress(LabError):
            self._memory.limit(self._process.pid)
        self.run_dir = RunDir(path)

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process.poll() is None:
                    self._process.send_signal(number)
                self._process.wait(20)
        self._memory.close()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def output(self) -> str:
        return self.run_dir.path.with_suffix(".out").read_text()

    def strike(self, injection: Injection) -> list[Struck]:
        fault, worker = injection.fault, injection.worker
        if fault.is_silent:
            return [until(lambda: spoil(self.run_dir, fault.name, worker), "a worker", CALM_S)]
        if fault.name == "oom_kill":
            return [until(lambda: self._memory.exhaust(self.run_dir, worker), "a worker", CALM_S)]
        names = fault.parts or (fault.name,)
        struck = [order(self.run_dir, names[0], worker, injection.for_s)]
        for name in names[1:]:
            chance = injection.chance
            time.sleep(chance.uniform(0, MOST_APART_S))
            second = PlannedFault(name, chance.choice(WORKERS), after_s=0.0)
            struck.append(until(lambda: strike(self.run_dir, second), f"somebody to {name}", CALM_S))  # noqa: B023
        return struck


def order(run_dir: RunDir, name: str, worker: str, for_s: float | None) -> Struck:
    """Have the run's own controller do it."""
    before = len(run_dir.read_events())
    ask_controller(run_dir, OrderDrill(name, worker, for_s), DEADLINES)

    def fired() -> list[DrillFired]:
        return [event for event in run_dir.read_events()[before:] if isinstance(event, DrillFired)]

    (event,) = until(fired, f"{name} is announced", CALM_S)
    return Struck(name, worker, event.monotonic_s)


class Disks(Place):
    """Toy workers on one host: what they compute takes no time, so that the storage is all."""

    def __init__(self, folder: Path) -> None:
        self._hosts = DrillHosts(num_hosts=1)

    def __enter__(self) -> Place:
        self._hosts.__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.end()
        self._hosts.__exit__(None, None, None)

    def begin(self) -> None:
        name = f"run-{time.time_ns()}"
        meet = self._hosts.lab.shared / f"meet-{name}"
        meet.mkdir()
        config = {"step_s": 0.1, "meet": str(meet)}
        values = small_job(model={"family": "toy", "config": config}, data={"text": "stdlib"}, steps=ENDLESS, drill=[])
        job, run = self._hosts.prepare(name, values | {"checkpoint": {"every": 20, "keep": 3}})
        words = [sys.executable, "-m", "tests.launcher.drive", "run", str(run), "--job", str(job), "--beside"]
        self._process = self._hosts.start(words)
        self.run_dir = self._hosts.run_dir(name)

    def end(self) -> None:
        end_process(self._process)

    def has_ended(self) -> bool:
        return self._process.status is not None

    def output(self) -> str:
        return self._process.output

    def strike(self, injection: Injection) -> list[Struck]:
        if "worker" in injection.fault.culprits:
            until(lambda: list(self.run_dir.checkpoints.glob("step-*")), "a checkpoint", CALM_S)
        return [self._hosts.strike(injection.fault.name, injection.worker, self.run_dir, injection.for_s)]

    def heal(self, injection: Injection) -> None:
        self._hosts.heal()


class Hosts(Disks):
    """The small job over Ray on hosts of a lab."""

    def __init__(self, folder: Path) -> None:
        self._hosts = DrillHosts()

    def begin(self) -> None:
        at_work = [{**island, "node": LABEL, "emulate": DEVICE} for island in islands()]
        name = f"run-{time.time_ns()}"
        values = small_job(steps=ENDLESS, drill=[], checkpoint={"every": 20, "keep": 3}, islands=at_work)
        self._process = self._hosts.begin(name, values)
        self.run_dir = self._hosts.run_dir(name)

    def heal(self, injection: Injection) -> None:
        try:
            if injection.fault.target != "head":
                self._hosts.heal()
                return
            self.end()
            self._hosts.heal()
        except LabError as error:  # Ray does not take a host back: all of it begins anew
            print(f"{injection.key}: {error}; the hosts begin anew", flush=True)
            self.end()
            self._hosts.begin_ray()
        self.begin()


def end_process(process: HostProcess) -> None:
    for _ in range(2):
        process.signal(signal.SIGTERM)
        time.sleep(0.5)
    with contextlib.suppress(LabError):
        process.wait(30)


PLACES: dict[str, Callable[[Path], Place]] = {"here": Here, "disk": Disks, "hosts": Hosts}


# One injection.


def until(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.1)
    return value


def is_calm(run_dir: RunDir, after_step: int) -> bool:
    """Whether all workers train, beyond that step, and nobody is suspected."""
    status = run_dir.read_status() if run_dir.path.is_dir() else None
    if status is None or status.state != "RUNNING" or status.suspects:
        return False
    return all(worker.alive for worker in status.workers) and status.step > after_step


def await_calm(place: Place) -> None:
    """The run trains; another one where it has ended, or is just ending."""
    for _ in range(MOST_RUNS):
        if place.has_ended():
            place.end()
            place.begin()
        status = place.run_dir.read_status() if place.run_dir.path.is_dir() else None
        step = 2 if status is None else status.step + 2
        try:
            until(lambda: place.has_ended() or is_calm(place.run_dir, step), "a run that trains", START_S + CALM_S)  # noqa: B023
        except TimeoutError as error:
            now = place.run_dir.read_status() if place.run_dir.path.is_dir() else None
            raise TimeoutError(f"{error}; its status: {now}; it printed:\n{place.output()[-4000:]}") from error
        if not place.has_ended():
            return
    raise RuntimeError(f"{place.run_dir.path}: the run has ended by itself:\n{place.output()}")


def is_over(struck: Sequence[Struck], events: Sequence[Event], for_s: float | None) -> bool:
    """Whether all that can be named is named, and those who failed are replaced."""
    if any(isinstance(event, RunEnded) for event in events):
        return True
    *_, last = judge(struck, events)
    fault, passed = known_fault(struck[-1].fault), time.monotonic() - struck[-1].at
    assert fault is not None
    if len(struck) > 1:
        has_settled = passed > HANG_S
    elif fault.must_be_named:
        has_settled = bool(last.kind) and (fault.target == "worker" or passed > (for_s or 0.0))
    else:
        least_s = RAY_S if "ray" in fault.needs else (for_s or 0.0) + AFTER_S
        has_settled = passed > least_s or (bool(last.kind) and "ray" in fault.needs)
    if not has_settled:
        return False
    failed = [event.generation for event in events if isinstance(event, FailureDiagnosed)]
    begun = [event.generation for event in events if isinstance(event, FirstStep)]
    ignored = [event for event in events if isinstance(event, RecoveryDecided) and event.action == "ignore"]
    return len(ignored) == len(failed) or max(begun, default=0) > max(failed)


def inject(place: Place, injection: Injection) -> tuple[ScoredFault, ...]:
    await_calm(place)
    before = len(place.run_dir.read_events())
    struck = place.strike(injection)
    with contextlib.suppress(TimeoutError):
        until(lambda: is_over(struck, place.run_dir.read_events()[before:], injection.for_s), "its end", OVER_S)
    return judge(struck, place.run_dir.read_events()[before:])


# All of them.


def run(place_name: str, injections: Sequence[Injection], folder: Path, until_s: float) -> Iterator[dict[str, Any]]:
    with PLACES[place_name](folder) as place:
        for injection in injections:
            if time.monotonic() > until_s:
                return
            verdicts = inject(place, injection)
            yield {
                "seed": injection.key, "fault": injection.fault.name, "place": place_name, "worker": injection.worker,
                "ok": all(verdict.is_right for verdict in verdicts), "load": round(os.getloadavg()[0], 1),
                "told": [verdict.to_json() for verdict in verdicts],
            }  # fmt: skip
            print("; ".join(map(str, verdicts)), flush=True)
            place.heal(injection)


def report(lines: Sequence[dict[str, Any]], wanted: Sequence[Injection]) -> bool:
    """Print what has come of all; whether enough of them are right."""
    keys = {injection.key for injection in wanted}
    lines = [line for line in lines if line["seed"] in keys]
    right = sum(line["ok"] for line in lines)
    rows = Counter(line["fault"] for line in lines)
    loads = [line["load"] for line in lines]
    percent = 100 * right / max(len(lines), 1)
    print(f"{len(lines)} of {len(wanted)} injections, {len(rows)} of {len(FAULTS)} rows, {right} right "
          f"({percent:.1f} %); load {min(loads, default=0)} to {max(loads, default=0)}")  # fmt: skip
    for line in lines:
        if not line["ok"]:
            told = [f"{one['kind'] or 'nothing'} of {one['culprit']}" for one in line["told"]]
            print(f"  wrong: {line['seed']} on {line['worker']}: {'; '.join(told)}")
    return right >= RIGHT * len(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, default=3, help="how often each row comes")
    parser.add_argument("--only", nargs="+", default=list(PLACES), help="places, or rows of the vocabulary")
    parser.add_argument("--most", type=int, default=ENDLESS, help="so many injections in this call")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="none begins after so many")
    parser.add_argument("--folder", type=Path, default=Path("runs/campaign"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it has begun ends with it
    given.folder.mkdir(parents=True, exist_ok=True)
    until_s = time.monotonic() + 60 * given.minutes
    wanted, kept = planned(given.seed, given.times), KeptLines(given.folder / LINES)
    done = {line["seed"] for line in kept.read()}
    kept.tell_others()
    left = [one for one in wanted if one.key not in done and {one.fault.name, place_of(one.fault)} & {*given.only}]
    for name in PLACES:
        own = [one for one in left[: given.most] if place_of(one.fault) == name]
        for line in run(name, own, given.folder, until_s) if own else ():
            kept.add(line)
    return 0 if report(kept.read(), wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
