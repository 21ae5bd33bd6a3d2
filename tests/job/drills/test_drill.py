"""`drill` in a job file: a list, each fault with its time and its worker, or the word that allows them from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.drills.drill import Drill, listed
from dougong.job.load import load_job
from dougong.job.schema import Job
from tests.job.refusing import refusals
from tests.job.test_schema import LEAST
from tests.launcher.jobs import write

STOP = "at_step: 3, fault: stop, on: east/1"


def test_the_short_form_and_the_long_one() -> None:
    short, long = Drill(at_step=30, kill="east/1"), Drill(after_s=2.5, fault="stop", on="east/1", for_s=4.0)
    assert (short.what, short.worker, long.what, long.worker) == ("kill", "east/1", "stop", "east/1")


def test_what_happens_to_the_controller_has_no_worker() -> None:
    job = Job.model_validate({**LEAST, "drill": [{"at_step": 1, "fault": "kill_controller"}]})
    (drill,) = listed(job.drill)
    assert (drill.what, drill.worker) == ("kill_controller", "")


def test_a_job_that_allows_drills_orders_none_itself() -> None:
    job = Job.model_validate({**LEAST, "drill": "allowed"})
    assert job.drill == "allowed" and listed(job.drill) == ()
    ordered = Job.model_validate({**LEAST, "drill": [{"at_step": 1, "kill": "east/0"}]})
    assert listed(ordered.drill) == (Drill(at_step=1, kill="east/0"),)


def test_the_word_and_the_list_are_read_and_written(tmp_path: Path) -> None:
    for text, drill in (("allowed", "allowed"), (f"[{{{STOP}}}]", (Drill(at_step=3, fault="stop", on="east/1"),))):
        resolved = load_job(write(tmp_path, drill=text))
        assert resolved.job.drill == drill
        again = tmp_path / "again.yaml"
        again.write_text(resolved.to_yaml())
        assert load_job(again).job == resolved.job


@pytest.mark.parametrize(
    ("drill", "line"),
    [
        ("[{at_step: 1, fault: kill_node, on: east/0}]",
         "drill.0.fault: cannot be ordered here: everything on a node is gone at once, and its cable is dead; it is "
         "done to hosts of a lab, by root: python -m dougong.testing (got 'kill_node'): what happens, by its name in "
         "the vocabulary"),
        ("[{at_step: 1, kill: east/0, fault: stop}]",
         "drill.0.kill: `kill` is short for `fault: kill` and `on`; keep it alone, or those two"),
        ("[{at_step: 1, fault: stop}]",
         "drill.0: say what happens and to whom: `kill: east/1`, or `fault: stop` and `on: east/1`"),
        ("[{kill: east/0}]", "drill.0: say when, by one of `at_step: 30` and `after_s: 20`"),
        ("[{at_step: 1, after_s: 2.0, kill: east/0}]", "drill.0: say when, by one of `at_step: 30` and `after_s: 20`"),
        ("[{at_step: 1, fault: kill_controller, on: east/0}]",
         "drill.0.on: kill_controller happens to no worker; remove `on`"),
        ("[{at_step: 1, fault: stop, on: east/7}]",
         "drill.0.on: no worker is called 'east/7'; name one of east/0, east/1, or remove the drill"),
        ("[{at_step: 1, fault: segfault, on: east/0, for_s: 3.0}]",
         "drill.0.for_s: segfault does not last; remove it, or choose one that does: stop, hold_interpreter, pause, "
         "slow_cpu, stop_agent, stop_fork_server, zombie_return, stop_controller"),
        ("forbidden", "drill: must be a list of faults or 'allowed' (got 'forbidden'); use one of them"),
        ("allow", "drill: must be a list of faults or 'allowed' (got 'allow'); did you mean 'allowed'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_key(tmp_path: Path, drill: str, line: str) -> None:
    assert refusals(write(tmp_path, drill=drill)) == [line]


def test_an_unknown_fault_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (line,) = refusals(write(tmp_path, drill="[{at_step: 1, fault: kil_agent, on: east/0}]"))
    assert line.startswith("drill.0.fault: must be 'kill', ") and "did you mean 'kill_agent'?" in line
