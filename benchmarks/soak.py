"""A healthy run under trouble that is ordinary: does anything act on it?

    python benchmarks/soak.py [--minutes N] [--long] [--seed N]

Toy workers (no model: the watch looks at processes, vectors and pulses, not at what is computed) on two agents, a
processor hog beside them, and every two to five seconds one of: a pause of 0.3 to 1.5 s of a random worker, of a
random agent, of the controller, or of all of them; a jump of the wall clock, of which a small library tells every
process of the run (needs a C compiler). Printed are the trouble made, the suspicions shown and taken back, and the
acts: diagnoses and restarts, of which there must be none. Five minutes; `--long`: fifteen. Exit status 1 when anything
was acted on.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from dougong.records.events import FailureDiagnosed, GenerationStarted, Suspected, SuspicionEnded
from tests.launcher.toyrun import ToyRun, toy_job

ISLANDS = [
    {"name": "east", "accelerator": "cpu", "workers": 2},
    {"name": "west", "accelerator": "cpu", "workers": 2},
]
STEP_S = 0.05
PAUSE_S = (0.3, 1.5)
BETWEEN_S = (2.0, 5.0)
KINDS = ("worker", "agent", "controller", "all")
CLOCK = Path(__file__).with_name("wall_clock.c")
JUMPS_S = (-7200, 86400, -3, 3)


@contextmanager
def hog() -> Iterator[None]:
    """One process that takes what it can get of a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def pids_of(run: ToyRun) -> dict[str, list[int]]:
    """Of the run's living processes, by kind."""
    status = run.run_dir.read_status()
    assert status is not None, "the run trains"
    workers = [worker.pid for worker in status.workers if worker.alive and worker.pid is not None]
    started = run.events("agents_started")[0]["agents"]
    agents = [agent["pid"] for agent in started]
    controller = run.run_dir.read_controller()
    assert controller is not None
    return {"worker": workers, "agent": agents, "controller": [controller.pid]}


def chosen(pids: Mapping[str, list[int]], kind: str, dice: random.Random) -> list[int]:
    if kind == "all":
        return [pid for group in pids.values() for pid in group]
    return [dice.choice(pids[kind])]


def pause(pids: list[int], seconds: float) -> None:
    """Stop them, and have them go on."""
    living = [pid for pid in pids if psutil.pid_exists(pid)]
    for pid in living:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        for pid in living:
            os.kill(pid, signal.SIGCONT)


def trouble(run: ToyRun, seconds: float, dice: random.Random, clock: Path | None) -> Counter[str]:
    """Make trouble for so long; how often each kind."""
    made: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.process.poll() is None:
        time.sleep(dice.uniform(*BETWEEN_S))
        kind = dice.choice((*KINDS, "clock") if clock is not None else KINDS)
        made[kind] += 1
        if kind == "clock" and clock is not None:
            clock.write_text(f"{dice.choice(JUMPS_S)}\n")
            continue
        pause(chosen(pids_of(run), kind, dice), dice.uniform(*PAUSE_S))
    return made


def environment(folder: Path) -> tuple[dict[str, str], Path | None]:
    """With which the run starts, and the file that says how wrong its wall clock is; None where there is no C
    compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler: the wall clock is left alone")
        return {}, None
    library, clock = folder / "wall_clock.so", folder / "wall_clock"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl"], check=True)
    clock.write_text("0\n")
    return {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(clock)}, clock


def report(run: ToyRun, made: Counter[str]) -> int:
    """Print what came of it; the number of acts."""
    events = run.run_dir.read_events()
    suspects = sum(isinstance(event, Suspected) for event in events)
    taken_back = sum(isinstance(event, SuspicionEnded) for event in events)
    acts = sum(isinstance(event, FailureDiagnosed) for event in events)
    restarts = sum(isinstance(event, GenerationStarted) for event in events) - 1
    steps = len(run.run_dir.read_metrics())
    kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(made.items()))
    print(f"trouble: {kinds}; load {os.getloadavg()[0]:.1f}; {steps:,} steps")
    print(f"suspicions shown {suspects}, taken back {taken_back}; acts {acts}, restarts {restarts}")
    return acts + restarts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--long", action="store_true", help="fifteen minutes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    seconds = 60 * (15.0 if given.long else given.minutes)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    job = toy_job(islands=ISLANDS, steps=10_000_000, checkpoint={"every": 500})
    job["model"]["config"]["step_s"] = STEP_S
    variables, clock = environment(folder)
    run = ToyRun(folder / "run", job, [], variables).start()
    try:
        run.await_step(5)
        with hog():
            made = trouble(run, seconds, random.Random(given.seed), clock)
        acts = report(run, made)
    finally:
        run.process.terminate()
        run.process.wait(60)
    if acts:
        print(f"the run is kept: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
