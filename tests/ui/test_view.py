"""The screen: plain lines in a pipe, a live panel on a real pseudo-terminal, and what is left when the run dies."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import Deadlines
from dougong.records.directory import RunDir
from dougong.records.events import (
    FailureDiagnosed,
    GenerationStarted,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    StateChanged,
    Waiting,
    WorkerDied,
)
from dougong.ui.view import View, make_view
from rich.console import Console
from tests.ui.recorded import failed_run, make_layout, make_row, running_run

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """A clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def replay(view: View, run: RunDir, clock: Clock) -> None:
    """Tell the view a recorded run as the controller would."""
    plan = run.read_plan()
    assert plan is not None
    view.plan(plan)
    rows = run.read_metrics()
    for event in run.read_events():
        clock.now = event.monotonic_s
        view.event(event)
        if event.kind == "first_step":
            view.event(StateChanged(generation=event.generation, state="RUNNING"))
            for row in [r for r in rows if r["generation"] == event.generation]:
                clock.now += row["step_s"]
                view.step(row)


def shown(run: RunDir) -> list[str]:
    out, clock = io.StringIO(), Clock()
    with make_view(Console(file=out, width=40), "quickstart", 60, clock) as view:
        replay(view, run, clock)
    assert "\x1b" not in out.getvalue()
    return out.getvalue().splitlines()


def test_plain_one_whole_line_per_step(tmp_path: Path) -> None:
    lines = shown(running_run(tmp_path / "run"))
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 29 + 5
    assert steps[0].startswith("step  1/60  loss 5.3397  4,400")
    assert steps[19].split("  ")[2:3] == ["val 2.9888"]
    assert not any("generation" in line for line in steps)
    again = next(i for i, line in enumerate(lines) if "training again at step 21" in line)
    assert lines[again + 1].startswith("step 21/60")


def test_a_long_phase_of_the_start_is_told_before_its_end() -> None:
    out, clock = io.StringIO(), Clock()
    with make_view(Console(file=out, width=100), "tiny", 60, clock) as view:
        view.event(PhaseStarted(generation=0, phase="imports"))
        for clock.now in (1.0, 6.0, 7.0):
            view.tick()
        view.event(PhaseEnded(generation=0, phase="imports", seconds=7.5))
        view.tick()
    assert out.getvalue().splitlines() == [
        "· imports of torch and transformers, 6.0 s so far",
        "· imports of torch and transformers: 7.5 s",
    ]


def test_what_is_awaited_long_is_said_now_and_then_with_how_long() -> None:
    out, clock = io.StringIO(), Clock()
    text = "island east asks for 2 npu workers; free some"
    with make_view(Console(file=out, width=100), "tiny", 60, clock) as view:
        view.event(PhaseStarted(generation=0, phase="Ray"))
        view.event(Waiting(generation=0, text=text))
        for clock.now in (9.0, 11.0, 12.0, 19.0, 21.0, 39.0, 41.0):
            view.tick()
        view.event(PhaseEnded(generation=0, phase="Ray", seconds=45.0))
        clock.now = 100.0
        view.tick()
    told = [line for line in out.getvalue().splitlines() if "waiting" in line]
    assert told == [
        f"! waiting: {text}",
        f"· still waiting 11 s: {text}",
        f"· still waiting 21 s: {text}",
        f"· still waiting 41 s: {text}",
    ]


def test_a_failure_names_worker_and_cause_once(tmp_path: Path) -> None:
    lines = shown(running_run(tmp_path / "run"))
    failures = [line for line in lines if "✗" in line]
    assert len(failures) == 1  # the diagnosis says the same and is not told twice
    assert "worker east/1 died: crash: killed by signal 9 (SIGKILL), as rehearsed" in failures[0]


def test_a_diagnosis_that_differs_is_told() -> None:
    out = io.StringIO()
    view = make_view(Console(file=out), "tiny", 3)
    view.event(WorkerDied(generation=1, worker="east/1", failure="crash", cause="exit status 1"))
    view.event(FailureDiagnosed(generation=1, worker="east/0", failure="storage", cause="disk full"))
    assert [line[2:] for line in out.getvalue().splitlines()] == [
        "worker east/1 died: crash: exit status 1", "diagnosis: east/0: storage: disk full",
    ]  # fmt: skip


def test_the_same_death_in_a_later_generation_is_told_again() -> None:
    out = io.StringIO()
    view = make_view(Console(file=out), "tiny", 3)
    for number in (1, 2):
        view.event(WorkerDied(generation=number, worker="east/1", failure="crash", cause="SIGKILL"))
        view.event(FailureDiagnosed(generation=number, worker="east/1", failure="crash", cause="SIGKILL"))
    assert [line[2:] for line in out.getvalue().splitlines()] == ["worker east/1 died: crash: SIGKILL"] * 2


def test_failures_are_red_and_markup_in_causes_is_text() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=200)
    view = make_view(console, "tiny", 3, deadlines=Deadlines(refresh_every_s=1e9))
    view.event(WorkerDied(generation=1, worker="east/1", failure="crash", cause="[/red] [bold]x"))
    view.close()
    assert "\x1b[1;31mworker east/1 died: crash: [/red] [bold]x\x1b[0m" in out.getvalue()


def test_worker_lines_pass_or_are_grouped() -> None:
    out, clock = io.StringIO(), Clock()
    view = make_view(Console(file=out, width=30), "tiny", 3, clock)
    view.plan(make_layout({"east": 3}), layout=False)
    view.worker_line("east/1", "chatter")
    view.worker_line("east/0", "a line much longer than the console is wide, whole")
    for worker in ("east/2", "east/1"):
        view.worker_line(worker, "WARNING: disk is slow")
    assert out.getvalue() == "a line much longer than the console is wide, whole\n"
    clock.now = 2.0
    view.tick()
    assert out.getvalue().splitlines()[1:] == ["! [east/1-2] WARNING: disk is slow"]


def test_a_workers_own_colours_move_no_cursor_and_do_not_reach_a_pipe() -> None:
    out = io.StringIO()
    view = make_view(Console(file=out), "tiny", 3)
    view.worker_line("east/0", "\x1b[31mred\x1b[0m and \x1b[2J\x1b[3Agone")
    view.worker_line("east/0", "\x1b[33mWARNING: yellow\x1b[0m")
    view.close()
    assert out.getvalue() == "red and gone\n! [east/0] WARNING: yellow\n"


def test_that_others_have_lost_a_peer_is_a_quiet_line_below_the_cause() -> None:
    out, clock = io.StringIO(), Clock()
    view = make_view(Console(file=out), "tiny", 3, clock)
    view.plan(make_layout({"east": 3}), layout=False)
    echo = "PeerError: gloo: Read error [127.0.0.1]:65: Connection reset by peer. " + "x" * 200
    traceback = ["Traceback (most recent call last):", '  File "a.py", line 3', "ValueError: bad token"]
    for worker, lines in (("east/1", traceback), ("east/0", [echo]), ("east/2", [echo])):
        for line in lines:
            view.worker_line(worker, line)
        name, _, message = lines[-1].partition(": ")
        bases = (name, "DougongError" if name == "PeerError" else "Exception")
        view.worker_raised(worker, WorkerRaised(name, bases, message, "the traceback\n"))
    view.event(GenerationStarted(generation=2, workers=("east/0",)))  # messages wait longer than a recovery takes
    view.close()
    lines = out.getvalue().splitlines()[1:]
    assert lines[:3] == [
        "✗ [east/1] Traceback (most recent call last):",
        '  File "a.py", line 3',
        "ValueError: bad token",
    ]
    assert lines[3].startswith("· [east/0, east/2] follows from it: PeerError: gloo: Read error")
    assert lines[3].endswith("...") and len(lines) == 4


def test_what_an_error_says_on_purpose_is_not_told_by_its_workers_too() -> None:
    out = io.StringIO()
    view = make_view(Console(file=out), "tiny", 3)
    bases = ("DataError", "DougongError", "Exception")
    for worker in ("east/0", "east/1"):
        view.worker_line(worker, "DataError: data.text: line 3 is empty")
        view.worker_line(worker, "ValueError: of a library")
        view.worker_raised(worker, WorkerRaised("DataError", bases, "data.text: line 3 is empty"))
    cause = "DataError: data.text: line 3 is empty"
    view.event(WorkerDied(generation=1, worker="east/0", failure="data", cause=cause))
    view.event(RunEnded(kind="failed", generation=1, step=0, cause=cause, worker="east/0", failure="data"))
    view.close()
    lines = out.getvalue().splitlines()
    assert sum("line 3 is empty" in line for line in lines) == 1
    assert "✗ [east/0-1] ValueError: of a library" in lines


def test_close_tells_what_was_still_waiting_and_the_summary_last() -> None:
    out = io.StringIO()
    view = make_view(Console(file=out), "tiny", 3)
    view.worker_line("east/0", "ValueError: bad token")
    view.close("summary")
    view.close("not again")
    assert out.getvalue() == "✗ [east/0] ValueError: bad token\nsummary\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_without_unicode_still_gets_every_line(encoding: str, terminal: bool) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    view = make_view(Console(file=out, force_terminal=terminal, color_system=None), "tiny", 3)
    view.worker_line("east/0", "木 plain")
    view.step(make_row(1, 1))
    view.close("done")
    out.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert lines[0] == "? plain"
    assert lines[1].startswith("step 1/3")
    assert lines[2] == "done"


def test_a_closed_screen_does_not_end_the_job() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "from rich.console import Console; from dougong.ui.view import make_view\n"
        "view = make_view(Console(), 'tiny', 3)\n"
        "for step in range(3): view.worker_line('east/0', 'x' * 100000)\n"
        "view.close('end')\n"
        "import sys; print('alive', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "alive\n")


LIVE = """
import sys, time
from pathlib import Path
from rich.console import Console
from dougong.ui.view import make_view
from tests.ui.recorded import running_run
from tests.ui.test_view import Clock, replay
clock = Clock()
view = make_view(Console(), "quickstart", 60, clock)
replay(view, running_run(Path(sys.argv[1])), clock)
print("printed beside the view")
if sys.argv[2] == "hang":
    print("READY", flush=True)
    time.sleep(600)
if sys.argv[2] == "raise":
    raise RuntimeError("the first error")
view.close("the summary")
"""


def on_a_terminal(path: Path, end: str) -> tuple[int, str]:
    """Run LIVE on a pseudo-terminal 100 columns wide; its exit status and everything it wrote."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", LIVE, str(path), end]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the terminal's other end is closed
            break
        written += chunk
        if end == "hang" and b"READY" in written:
            process.send_signal(signal.SIGKILL)
    os.close(master)
    return process.wait(60), written.decode()


def test_live_panel_on_a_terminal(tmp_path: Path) -> None:
    status, written = on_a_terminal(tmp_path / "run", "close")
    text = ANSI.sub("", written)
    assert status == 0
    for expected in ("worker east/1 died: crash: killed by signal 9", "training again at step 21", "● running",
                     "step 25/60", "tokens/s", "validation 2.9888 at step 20", "checkpoint step 20",
                     "generation 2", "1 failure", "left", "printed beside the view"):  # fmt: skip
        assert expected in text
    assert not any(line.startswith("step ") for line in text.splitlines())
    assert text.rstrip().endswith("the summary")


@pytest.mark.parametrize("end", ["close", "raise", "hang"])
def test_the_terminal_is_left_as_it_was(tmp_path: Path, end: str) -> None:
    status, written = on_a_terminal(tmp_path / "run", end)
    assert written.rfind("\x1b[?25l") < written.rfind("\x1b[?25h")  # the cursor shows
    assert "\x1b[?1049h" not in written  # no other screen that would take the output with it
    assert status == {"close": 0, "raise": 1, "hang": -signal.SIGKILL}[end]
    if end == "raise":
        assert "RuntimeError: the first error" in ANSI.sub("", written)


def test_a_failed_run_is_told_to_its_end(tmp_path: Path) -> None:
    lines = shown(failed_run(tmp_path / "run"))
    assert "checkpoint step-000020 rejected" in "\n".join(lines)
    # Its cause was told when the worker died, and the command's last words tell it again.
    assert lines[-1].endswith("✗ failed at step 9")
    assert sum("RuntimeError: <script>" in line for line in lines) == 1
