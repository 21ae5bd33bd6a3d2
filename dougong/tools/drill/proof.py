"""`dougong drill --seed N`: random schedules of faults against a small job on this machine, each
held against the undisturbed run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.job.drills.vocabulary import continuing
from dougong.records.directory import RunDir
from dougong.tools.drill.comparison import compare, digest_of_run
from dougong.tools.drill.hosts import DrillHosts
from dougong.tools.drill.lines import Lines, Rehearsal, Summary, digest_of_software
from dougong.tools.drill.schedule import PlannedFault, draw_schedule, drawable
from dougong.tools.drill.score import drills_of, judge
from dougong.tools.drill.small_job import STEPS, WORKERS
from dougong.tools.drill.small_run import HostsRun, SmallRun, takes_hosts

LINES = "drills.jsonl"
UNDISTURBED = "undisturbed"
_LOCK = "drills.lock"


@dataclass
class Proof:
    """Rehearsals in one folder, which remembers those that are done. `has_lab`: what takes root and
    hosts is drawn too, and done in a lab. `tell`: what a person should know of the folder.

    What goes well leaves its line alone; of what does not the run is kept.
    """

    folder: Path
    seed: int
    deadlines: Deadlines = DEADLINES
    has_lab: bool = False
    tell: Callable[[str], None] = field(default=lambda text: None)

    def __post_init__(self) -> None:
        self.code = digest_of_software()
        self.lines = Lines(self.folder / LINES, self.code)
        if self.lines.is_torn:
            self.tell(f"{self.lines.path}: the last line is torn: its schedule is done again")
        if self.lines.other:
            other = len(self.lines.other)
            self.tell(f"{self.lines.path}: {other} lines are of other software, and do not count")

    def rehearse(self, count: int) -> Iterator[Rehearsal]:
        """The schedules 1 to `count` of the seed that are not done yet, each as it ends."""
        left = [key for key in self.keys(count) if key not in self.lines.done]
        yield from self._rehearse(left)

    def repeat(self, number: int) -> Iterator[Rehearsal]:
        """That schedule, also where it is done."""
        yield from self._rehearse(self.keys(number)[-1:])

    def keys(self, count: int) -> list[str]:
        """By which the schedules 1 to `count` are known."""
        where = f"{self.seed}/lab" if self.has_lab else f"{self.seed}"
        return [f"{where}/{number}" for number in range(1, count + 1)]

    def summary(self, count: int) -> Summary:
        """What the schedules 1 to `count` have come to, those of earlier calls among them."""
        return self.lines.summary(self.keys(count))

    def draw(self, key: str) -> tuple[PlannedFault, ...]:
        """That schedule."""
        rows = drawable(continuing(is_audited=True), self.has_lab, is_audited=True)
        return draw_schedule(key, rows, WORKERS, STEPS)

    def undisturbed(self) -> RunDir:
        """The run without a fault, by the same software; made where it is not there."""
        path = self.folder / f"{UNDISTURBED}-{self.code}"
        if not digest_of_run(RunDir(path), STEPS):
            run = SmallRun(path, (), self.deadlines)
            run.begin()
            run.finish()
            if run.status != 0:
                raise LaunchError(f"the undisturbed run failed:\n{run.output}")
        return RunDir.open(path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """LaunchError where another process rehearses in this folder: each would clear the other's
        runs away. The folder is made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                text = "another drill is at work here; wait for its end, or name another --folder"
                raise LaunchError(f"{self.folder}: {text}") from error
            yield

    def _rehearse(self, keys: Sequence[str]) -> Iterator[Rehearsal]:
        takes_lab = any(takes_hosts(self.draw(key)) for key in keys)
        with (
            self.alone(),
            DrillHosts() if takes_lab else contextlib.nullcontext() as hosts,
        ):
            for key in keys:
                rehearsal = self._one(key, hosts)
                self.lines.add(rehearsal)
                yield rehearsal

    def _run(self, key: str, planned: Sequence[PlannedFault], hosts: DrillHosts | None) -> SmallRun:
        path = self.folder / f"run-{key.replace('/', '-')}"
        if hosts is not None and takes_hosts(planned):
            return HostsRun(path, planned, self.deadlines, hosts)
        return SmallRun(path, planned, self.deadlines)

    def _one(self, key: str, hosts: DrillHosts | None) -> Rehearsal:
        planned, undisturbed = self.draw(key), self.undisturbed()
        began = time.monotonic()
        run = self._run(key, planned, hosts)
        run.begin()
        run.finish()
        seconds = round(time.monotonic() - began, 1)
        rehearsal = self._looked_at(key, planned, run, undisturbed, seconds)
        if rehearsal.is_good:
            run.clear_away()
        return rehearsal

    def _looked_at(
        self,
        key: str,
        planned: Sequence[PlannedFault],
        run: SmallRun,
        undisturbed: RunDir,
        seconds: float,
    ) -> Rehearsal:
        found = compare(run.run_dir, undisturbed, STEPS)
        events = run.run_dir.read_events()
        struck = sorted((*drills_of(events), *run.struck), key=lambda one: one.at)
        ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rehearsal = Rehearsal(
            key=key,
            planned=tuple(map(str, planned)),
            verdicts=judge(struck, events),
            bits=str(found),
            is_equal=found.is_equal and run.status == 0,
            is_hung=run.is_hung,
            left=tuple(run.left()),
            seconds=seconds,
            load=round(os.getloadavg()[0], 1),
            ended=ended,
            digest=digest_of_run(run.run_dir, STEPS),
            code=self.code,
            again=self._again(key),
        )
        if rehearsal.is_good:
            return rehearsal
        return replace(rehearsal, evidence=str(run.run_dir.path))

    def _again(self, key: str) -> str:
        number = key.rpartition("/")[2]
        lab = ["--lab"] if self.has_lab else []
        words = ["--seed", str(self.seed), "--schedule", number, *lab, "--folder", str(self.folder)]
        return shlex.join(["dougong", "drill", *words])
