"""`dougong drill --seed N`: random schedules of faults against a small job on this machine, each
held against the undisturbed run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.job.drills.vocabulary import continuing
from dougong.records.directory import RunDir
from dougong.tools.drill.comparison import compare
from dougong.tools.drill.hosts import DrillHosts
from dougong.tools.drill.schedule import PlannedFault, draw_schedule, drawable
from dougong.tools.drill.score import ScoredFault, drills_of, judge
from dougong.tools.drill.small_job import STEPS, WORKERS
from dougong.tools.drill.small_run import HostsRun, SmallRun, takes_hosts

LINES = "drills.jsonl"
UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Rehearsal:
    """One schedule's line. `bits`: what differs from the undisturbed run, in words; `left`: what
    was left behind; `is_hung`: it had to be ended. `load`: of the machine, at its end."""

    key: str
    planned: tuple[str, ...]
    verdicts: tuple[ScoredFault, ...]
    bits: str
    is_equal: bool
    is_hung: bool
    left: tuple[str, ...]
    seconds: float
    load: float

    @property
    def is_good(self) -> bool:
        """Whether all has come, and nothing was lost, left or misnamed."""
        has_come = len(self.verdicts) == len(self.planned)
        named = has_come and all(verdict.is_right for verdict in self.verdicts)
        return self.is_equal and named and not self.is_hung and not self.left

    def to_json(self) -> dict[str, Any]:
        """As its line of JSON has it."""
        values = {name: value for name, value in vars(self).items() if name != "verdicts"}
        return {**values, "faults": [verdict.to_json() for verdict in self.verdicts]}


@dataclass(frozen=True)
class Summary:
    """Counts of schedules, and of the faults in them. `dirty`: schedules that left something."""

    asked: int
    done: int
    equal: int
    hung: int
    dirty: int
    faults: int
    right: int

    @property
    def is_good(self) -> bool:
        """Whether all that was asked is done, and as it should be."""
        all_done = self.done == self.asked == self.equal and self.faults == self.right
        return all_done and not self.hung and not self.dirty

    @property
    def words(self) -> str:
        """One line."""
        return (
            f"{self.done} of {self.asked} schedules done: {self.equal} with the bits and samples "
            f"of the undisturbed run, {self.hung} hung, {self.dirty} left something; "
            f"{self.right} of {self.faults} faults named right"
        )


@dataclass
class Proof:
    """Rehearsals in one folder, which remembers those that are done. `has_lab`: what takes root and
    hosts is drawn too, and done in a lab."""

    folder: Path
    seed: int
    deadlines: Deadlines = DEADLINES
    has_lab: bool = False
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / LINES).read_text().splitlines():
                row = json.loads(line)
                self.done[row["key"]] = row

    def rehearse(self, count: int) -> Iterator[Rehearsal]:
        """The schedules 1 to `count` of the seed that are not done yet, each as it ends."""
        left = [key for key in self.keys(count) if key not in self.done]
        takes_lab = any(takes_hosts(self.draw(key)) for key in left)
        with DrillHosts() if takes_lab else contextlib.nullcontext() as hosts:
            for key in left:
                rehearsal = self._one(key, hosts)
                self.done[key] = rehearsal.to_json()
                with (self.folder / LINES).open("a") as file:
                    file.write(json.dumps(self.done[key]) + "\n")
                yield rehearsal

    def keys(self, count: int) -> list[str]:
        """By which the schedules 1 to `count` are known."""
        where = f"{self.seed}/lab" if self.has_lab else f"{self.seed}"
        return [f"{where}/{number}" for number in range(1, count + 1)]

    def summary(self, count: int) -> Summary:
        """What the schedules 1 to `count` have come to, those of earlier calls among them."""
        rows = [self.done[key] for key in self.keys(count) if key in self.done]
        faults = list(itertools.chain.from_iterable(row["faults"] for row in rows))
        return Summary(
            asked=count,
            done=len(rows),
            equal=sum(row["is_equal"] for row in rows),
            hung=sum(row["is_hung"] for row in rows),
            dirty=sum(bool(row["left"]) for row in rows),
            faults=len(faults),
            right=sum(fault["is_right"] for fault in faults),
        )

    def draw(self, key: str) -> tuple[PlannedFault, ...]:
        """That schedule."""
        rows = drawable(continuing(), self.has_lab)
        return draw_schedule(key, rows, WORKERS, STEPS)

    def _undisturbed(self) -> RunDir:
        path = self.folder / UNDISTURBED
        if not (path / "report.html").exists():
            run = SmallRun(path, (), self.deadlines)
            run.begin()
            run.finish()
            if run.status != 0:
                raise LaunchError(f"the undisturbed run failed:\n{run.output}")
        return RunDir.open(path)

    def _run(self, key: str, planned: Sequence[PlannedFault], hosts: DrillHosts | None) -> SmallRun:
        path = self.folder / f"run-{key.replace('/', '-')}"
        if hosts is not None and takes_hosts(planned):
            return HostsRun(path, planned, self.deadlines, hosts)
        return SmallRun(path, planned, self.deadlines)

    def _one(self, key: str, hosts: DrillHosts | None) -> Rehearsal:
        planned, undisturbed = self.draw(key), self._undisturbed()
        began = time.monotonic()
        run = self._run(key, planned, hosts)
        run.begin()
        run.finish()
        found = compare(run.run_dir, undisturbed, STEPS)
        events = run.run_dir.read_events()
        struck = sorted((*drills_of(events), *run.struck), key=lambda one: one.at)
        return Rehearsal(
            key=key,
            planned=tuple(map(str, planned)),
            verdicts=judge(struck, events),
            bits=str(found),
            is_equal=found.is_equal and run.status == 0,
            is_hung=run.is_hung,
            left=tuple(run.left()),
            seconds=round(time.monotonic() - began, 1),
            load=round(os.getloadavg()[0], 1),
        )
