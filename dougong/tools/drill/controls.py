"""Negative controls of the proof: each thing that it says was not there is put there on purpose,
and has to be found.

Two runs of the small job, and copies of their records; what is left behind is really left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dougong.control.environment import child_environment
from dougong.deadlines import DEADLINES, Deadlines
from dougong.records.directory import RunDir
from dougong.records.jsonl import JsonLines
from dougong.tools.drill.comparison import compare
from dougong.tools.drill.leftovers import MARK, left_behind, shared_memory
from dougong.tools.drill.proof import Proof
from dougong.tools.drill.schedule import PlannedFault
from dougong.tools.drill.score import Struck, judge
from dougong.tools.drill.small_job import STEPS, WORKERS
from dougong.tools.drill.small_run import SmallRun

_AT_STEP = STEPS // 2
_WAITS = "import sys; print(flush=True); sys.stdin.read()"
"""Of a process that is left: it ends with the pipe that it reads."""


@dataclass(frozen=True)
class NegativeControl:
    """`made`: what was put there; `found`: what the proof says of it, in words; `is_found`: that it
    names it."""

    name: str
    made: str
    found: str
    is_found: bool

    def __str__(self) -> str:
        verdict = "found" if self.is_found else "NOT FOUND"
        return f"{self.name}: {self.made}: {verdict}: {self.found}"


class Controls:
    """All of them, in the folder of a proof, with whose undisturbed run they are compared. `tell`:
    what cannot be tried here, and why."""

    def __init__(
        self,
        folder: Path,
        deadlines: Deadlines = DEADLINES,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._deadlines, self._tell = folder, deadlines, tell

    def all(self) -> Iterator[NegativeControl]:
        """Each as it ends; some minutes."""
        yield from self.of_leftovers()
        proof = Proof(self._folder, 0, self._deadlines)
        with proof.alone():
            honest = proof.undisturbed()
            for look in (self._flip, self._killed, self._lost_step, self._repeated_sample):
                yield look(honest)
            yield self._hang()

    def of_leftovers(self) -> Iterator[NegativeControl]:
        """What a run may leave; a second."""
        yield self._left("process", "a process of the run lives on", _leave_process)
        yield self._left("socket", "a socket lies in its directory", _leave_socket)
        yield self._left("shared memory", "a file of nobody lies in /dev/shm", _leave_memory)
        if _can_unshare():
            made = "a process of the run lives on in a namespace of its own"
            yield self._left("namespace", made, _leave_namespace)
        else:
            self._tell("namespace: not tried: `unshare --user true` fails here")

    def _flip(self, honest: RunDir) -> NegativeControl:
        """Nobody notices it in the run itself, which is not audited and ends well."""
        run = self._end_of("flip", PlannedFault("flip_gradient", WORKERS[0], _AT_STEP))
        found = compare(run.run_dir, honest, STEPS)
        is_found = run.status == 0 and bool(run.struck) and bool(found.tensors)
        made = "one bit of one gradient was computed wrongly, once, in the middle of a run"
        return self._told("bits", made, str(found), is_found, run)

    def _killed(self, honest: RunDir) -> NegativeControl:
        """A diagnosis of somebody else: the events of a real death, and another victim."""
        run = self._end_of("kill", PlannedFault("kill", WORKERS[-1], _AT_STEP))
        events = run.run_dir.read_events()
        whom = Struck("kill", WORKERS[0], min(event.monotonic_s for event in events))
        (verdict,) = judge([whom], events)
        is_right = compare(run.run_dir, honest, STEPS).is_equal and verdict.kind == "crash"
        made = f"the death of {WORKERS[-1]} is taken for one of {WORKERS[0]}"
        is_found = is_right and not verdict.is_right
        return self._told("name", made, str(verdict), is_found, run)

    def _hang(self) -> NegativeControl:
        too_short_s = self._deadlines.drill_cut_s
        limits = dataclasses.replace(self._deadlines, drill_run_s=too_short_s)
        run = SmallRun(self._folder / "control-hang", (), limits)
        run.begin()
        run.finish()
        left = run.left()
        said = f"it was ended; {', '.join(left) or 'nothing is left'}"
        made = f"a run has {too_short_s:g} s, in which none ends"
        return self._told("hang", made, said, run.is_hung and not left, run)

    def _told(
        self, name: str, made: str, found: str, is_found: bool, run: SmallRun
    ) -> NegativeControl:
        """Of a run that has served its purpose nothing is kept."""
        if is_found:
            run.clear_away()
        return NegativeControl(name, made, found, is_found)

    def _end_of(self, name: str, fault: PlannedFault) -> SmallRun:
        run = SmallRun(self._folder / f"control-{name}", (fault,), self._deadlines, False)
        run.begin()
        run.finish()
        return run

    def _lost_step(self, honest: RunDir) -> NegativeControl:
        with self._altered(honest, lambda row: [] if row["step"] == _AT_STEP else [row]) as run:
            found = compare(run, honest, STEPS)
        made = f"step {_AT_STEP}, with its samples, is taken out of a record"
        return NegativeControl("samples", made, str(found), found.missing == (_AT_STEP,))

    def _repeated_sample(self, honest: RunDir) -> NegativeControl:
        """The numbers of the step before, as if it had trained on the same samples again."""
        before = {row["step"] + 1: row for row in honest.read_metrics()}

        def repeat(row: dict[str, object]) -> list[dict[str, object]]:
            return [before[_AT_STEP] | {"step": _AT_STEP}] if row["step"] == _AT_STEP else [row]

        with self._altered(honest, repeat) as run:
            found = compare(run, honest, STEPS)
        made = f"step {_AT_STEP} tells of the samples of the step before"
        return NegativeControl("samples", made, str(found), found.other == (_AT_STEP,))

    @contextlib.contextmanager
    def _altered(
        self,
        honest: RunDir,
        change: Callable[[dict[str, object]], list[dict[str, object]]],
    ) -> Iterator[RunDir]:
        """A copy of a run in whose record each line is what `change` makes of it."""
        place = self._folder / "control-record"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(honest.path, place)
        lines = JsonLines(honest.metrics_file).read()
        written = JsonLines(RunDir(place).metrics_file)
        written.path.unlink()
        for line in lines:
            for row in change(line):
                written.append(row)
        yield RunDir(place)
        shutil.rmtree(place)

    def _left(
        self, name: str, made: str, leave: Callable[[str, Path], contextlib.ExitStack]
    ) -> NegativeControl:
        """Left is what was not there a moment ago."""
        place = self._folder / "control-left"
        place.mkdir(exist_ok=True)
        mark, before = uuid.uuid4().hex, shared_memory()
        with leave(mark, place):
            found = left_behind(mark, place, before)
        gone = left_behind(mark, place, before)
        shutil.rmtree(place)
        said = "; ".join(found) or "nothing is left"
        # Others on this machine may leave something meanwhile.
        made_here = {one for one in found if one.startswith(name)} - {*gone}
        return NegativeControl(name, made, said, bool(made_here))


def _leave_process(mark: str, place: Path) -> contextlib.ExitStack:
    return _begin([sys.executable, "-c", _WAITS], mark)


def _leave_namespace(mark: str, place: Path) -> contextlib.ExitStack:
    """A user's own: it takes no root."""
    return _begin(["unshare", "--user", sys.executable, "-c", _WAITS], mark)


def _can_unshare() -> bool:
    with contextlib.suppress(OSError):
        ended = subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False)
        return ended.returncode == 0
    return False


def _begin(words: list[str], mark: str) -> contextlib.ExitStack:
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=child_environment({MARK: mark}), stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    process.stdout.readline()
    stack = contextlib.ExitStack()
    stack.callback(process.communicate)  # closes its pipe, and waits for it
    return stack


def _leave_socket(mark: str, place: Path) -> contextlib.ExitStack:
    stack, folder = contextlib.ExitStack(), os.open(place, os.O_RDONLY)
    # By this name, since a path may be longer than the address of a socket.
    stack.enter_context(socket.socket(socket.AF_UNIX)).bind(f"/proc/self/fd/{folder}/s")
    stack.callback((place / "s").unlink)
    os.close(folder)
    return stack


def _leave_memory(mark: str, place: Path) -> contextlib.ExitStack:
    here = Path("/dev/shm") / f"dougong-control-{mark}"
    here.touch()
    stack = contextlib.ExitStack()
    stack.callback(here.unlink)
    return stack
