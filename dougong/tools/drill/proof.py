"""`dougong drill --seed N`: random schedules of faults against a small job on this machine, each
held against the undisturbed run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dougong.control.environment import child_environment
from dougong.control.processes import die_with_parent
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.job.drills.vocabulary import continuing
from dougong.records.directory import RunDir
from dougong.tools.drill.comparison import compare
from dougong.tools.drill.leftovers import MARK, left_behind, marked_processes, shared_memory
from dougong.tools.drill.schedule import PlannedFault, draw_schedule, drawable
from dougong.tools.drill.score import ScoredFault, Struck, drills_of, judge
from dougong.tools.drill.small_job import STEPS, WORKERS, small_job
from dougong.tools.drill.strike import strike

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
        """Whether nothing was lost, left or misnamed."""
        named = all(verdict.is_right for verdict in self.verdicts)
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
    """Rehearsals in one folder, which remembers those that are done."""

    folder: Path
    seed: int
    deadlines: Deadlines = DEADLINES
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / LINES).read_text().splitlines():
                row = json.loads(line)
                self.done[row["key"]] = row

    def rehearse(self, count: int) -> Iterator[Rehearsal]:
        """The schedules 1 to `count` of the seed that are not done yet, each as it ends."""
        keys = [f"{self.seed}/{number}" for number in range(1, count + 1)]
        for key in [key for key in keys if key not in self.done]:
            rehearsal = self._one(key, self.draw(key), self._undisturbed())
            self.done[key] = rehearsal.to_json()
            with (self.folder / LINES).open("a") as file:
                file.write(json.dumps(self.done[key]) + "\n")
            yield rehearsal

    def summary(self, count: int) -> Summary:
        """What the schedules 1 to `count` have come to, those of earlier calls among them."""
        keys = [f"{self.seed}/{number}" for number in range(1, count + 1)]
        rows = [self.done[key] for key in keys if key in self.done]
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
        rows = drawable(continuing(), has_lab=False)
        return draw_schedule(key, rows, WORKERS, STEPS)

    def _undisturbed(self) -> RunDir:
        path = self.folder / UNDISTURBED
        if not (path / "report.html").exists():
            run = SmallRun(path, (), self.deadlines)
            run.finish()
            if run.status != 0:
                raise LaunchError(f"the undisturbed run failed:\n{run.output}")
        return RunDir.open(path)

    def _one(self, key: str, planned: Sequence[PlannedFault], undisturbed: RunDir) -> Rehearsal:
        began, shared_before = time.monotonic(), shared_memory()
        path = self.folder / f"run-{key.replace('/', '-')}"
        run = SmallRun(path, planned, self.deadlines)
        run.finish()
        run_dir = RunDir.open(path)
        found = compare(run_dir, undisturbed, STEPS)
        events = run_dir.read_events()
        struck = sorted((*drills_of(events), *run.struck), key=lambda one: one.at)
        return Rehearsal(
            key=key,
            planned=tuple(map(str, planned)),
            verdicts=judge(struck, events),
            bits=str(found),
            is_equal=found.is_equal and run.status == 0,
            is_hung=run.is_hung,
            left=tuple(left_behind(run.mark, path, shared_before)),
            seconds=round(time.monotonic() - began, 1),
            load=round(os.getloadavg()[0], 1),
        )


class SmallRun:
    """One run of the small job by the command line, and the faults that its job file cannot order:
    those that come so long after another. `struck`: these."""

    def __init__(self, path: Path, planned: Sequence[PlannedFault], deadlines: Deadlines) -> None:
        self.mark = secrets.token_hex(8)
        self.struck: list[Struck] = []
        self.is_hung = False
        self._path, self._planned, self._deadlines = path, tuple(planned), deadlines
        job = path.with_suffix(".yaml")
        job.write_text(yaml.safe_dump(small_job(planned)))
        words = [sys.executable, "-m", "dougong", "run", str(job)]
        self._output = path.with_suffix(".out")
        ours = os.getpid()
        with self._output.open("w") as out:
            self._process = subprocess.Popen(
                [*words, "--no-ray", "--run-dir", str(path)],
                env=child_environment({MARK: self.mark}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(ours),  # a drill that is ended leaves no run
            )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text(errors="replace")

    def finish(self) -> None:
        """Wait for its end and that of its processes; strike meanwhile. What outlives its time is
        ended, and counts as hung."""
        until = time.monotonic() + self._deadlines.drill_run_s
        while self.status is None and time.monotonic() < until:
            self._strike_what_is_due()
            time.sleep(self._deadlines.exit_poll_every_s)
        if self.status is None:
            self.is_hung = True
            self._end()
        until = time.monotonic() + self._deadlines.kill_s
        while marked_processes(self.mark) and time.monotonic() < until:
            time.sleep(self._deadlines.exit_poll_every_s)

    def _end(self) -> None:
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(self._deadlines.kill_s)

    def _strike_what_is_due(self) -> None:
        """The second faults of pairs: so long after the first, whatever the run is at by then."""
        later = [number for number, fault in enumerate(self._planned) if fault.after_s is not None]
        if len(self.struck) == len(later) or not (self._path / "events.jsonl").exists():
            return
        fault = self._planned[later[len(self.struck)]]
        before = self._planned[later[len(self.struck)] - 1]
        fired = [one for one in drills_of(RunDir(self._path).read_events()) if _is(one, before)]
        assert fault.after_s is not None
        if fired and time.monotonic() >= fired[0].at + fault.after_s:
            struck = strike(RunDir(self._path), fault)
            self.struck += [] if struck is None else [struck]  # else it comes with the next look


def _is(struck: Struck, planned: PlannedFault) -> bool:
    return (struck.fault, struck.worker) == (planned.fault, planned.worker)
