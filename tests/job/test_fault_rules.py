"""What `fault`, `checkpoint` and `drill` may say together, and what of it is told as a warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.fault_rules import doubts
from dougong.job.load import load_job
from tests.job.refusing import TWO, refusals
from tests.launcher.jobs import write

SPARES = "[{name: a, accelerator: cpu, workers: 2, spares: 1}, {name: b, accelerator: cpu, workers: 2}]"


def test_a_word_where_a_word_or_a_number_goes_is_told_of_both(tmp_path: Path) -> None:
    (line,) = refusals(write(tmp_path, fault="{audit: some}"))
    assert line.startswith("fault.audit: must be 'all' or a number (got 'some')")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("{snapshots: {every: 0, replicas: 2}}", "fault.snapshots.replicas: 2 copies of snapshots that "
         "fault.snapshots.every: 0 never makes; raise fault.snapshots.every to 1 or more, or remove it"),
        ("{snapshots: {every: 0, local: /tmp}}", "fault.snapshots.local: a folder for snapshots that "
         "fault.snapshots.every: 0 never makes; raise fault.snapshots.every to 1 or more, or remove it"),
        ("{snapshots: {local: disk}}", "fault.snapshots.local: disk is not a whole path, and workers of other nodes "
         "begin in other folders; let it begin with /"),
        ("{snapshots: {local: /dev/null}}",
         "fault.snapshots.local: /dev/null is no folder; name one, or remove what is there"),
        ("{per_hour: {preemption: 3}}", "fault.per_hour.preemption: a preemption is never counted; remove it"),
        ("{per_hour: {hang: 3}, actions: {hang: fail}}", "fault.per_hour.hang: fault.actions.hang: fail ends the run "
         "at the first one; remove one of them"),
        ("{without_spare: stop, deadlines: {node_return_s: 9}}", "fault.deadlines.node_return_s: fault.without_spare: "
         "stop waits for no node; remove it, or say without_spare: wait"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(tmp_path: Path, fault: str, line: str) -> None:
    assert refusals(write(tmp_path, fault=fault)) == [line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"determinism": "run", "fault": "{audit: 5}"}, "fault.audit: with determinism: run another worker's numbers "
         "have other bits; use determinism: layout, or remove it"),
        ({"determinism": "off", "drill": "[{at_step: 3, fault: flip_weight, on: east/1}]"}, "drill.0: flip_weight: "
         "with determinism: off nobody compares numbers with their copies; use determinism: layout or run, or remove "
         "it"),
    ],
)  # fmt: skip
def test_what_nobody_could_see_is_refused(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    assert refusals(write(tmp_path, **changes)) == [line]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fault": "{snapshots: {replicas: 5}}"}, "fault.snapshots.replicas: 5 copies, and a worker has one other"),
        ({"fault": "{snapshots: {every: 0}}", "checkpoint": "{every: 0}"}, "checkpoint.every: 0, with "),
        ({"fault": "{snapshots: {local: /not-there-9/x}}"}, "fault.snapshots.local: /not-there-9/x "),
        ({"fault": "{deadlines: {hang_s: 99999}}"}, "fault.deadlines.hang_s: 99999 s, and whoever waits for a peer"),
        ({"fault": "{deadlines: {hang_s: 0.2}}"}, "fault.deadlines.hang_s: 0.2 s: healthy workers stand still"),
        ({"fault": "{deadlines: {agent_silence_s: 30}}"}, "fault.deadlines.agent_silence_s: 30 s, and an agent ends"),
        ({"fault": "{deadlines: {warm_up_s: 2}}"}, "fault.deadlines.warm_up_s: 2 s, less than fault.deadlines.hang_s"),
        ({"fault": "{max_restarts: 0}"}, "fault.max_restarts: 0: the first failure ends the run; 1 or more go on"),
        ({"fault": "{snapshots: {every: 1000000}}"}, "fault.snapshots.every: 1000000, and the job has "),
        ({"fault": "{per_hour: {crash: 0}}"}, "fault.per_hour.crash: 0: the first one ends the run"),
        ({"fault": "{max_skips: 5}"}, "fault.max_skips: counts only with fault.non_finite: skip"),
        ({"fault": "{actions: {device: restart}, quarantine: {after: 5}}"}, "fault.quarantine.after: "),
        ({"fault": "{quarantine: {lift: [GPU-1]}}"}, "fault.quarantine.lift: GPU-1: a run that begins has no device"),
        ({"islands": SPARES, "batch": "{lanes: 4}"}, "islands.*.spares: b has none: what is lost there waits"),
        ({"islands": TWO % (2, "attention", 1, "experts"), "fault": "{without_spare: shrink}"},
         "fault.without_spare: shrink: experts has one worker, without which nothing can go on"),
        ({"fault": "{without_spare: shrink}", "determinism": "run"}, "fault.without_spare: shrink: with determinism: "),
        ({"islands": "[{name: east, accelerator: cpu, workers: 1}]", "fault": "{audit: 2}"},
         "fault.audit: 2: east/0 is the only worker of role both, and computes its own part again: only errors that"),
        ({"islands": TWO % (2, "attention", 1, "experts"), "fault": "{audit: all}"},
         "fault.audit: all: b/0 is the only worker of role experts"),
        ({"drill": "[{at_step: 1, fault: nan, on: east/0}]", "fault": "{actions: {corruption: fail}}"},
         "drill.0: nan ends the run: fault.actions.corruption is fail"),
        ({"drill": "[{at_step: 1, kill: east/0}]", "fault": "{actions: {crash: fail}}"},
         "drill.0: kill ends the run: fault.actions.crash is fail"),
    ],
)  # fmt: skip
def test_what_may_not_be_meant_is_told(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    (text,) = doubts(load_job(write(tmp_path, **changes)).job)
    assert text.startswith(told)


@pytest.mark.parametrize("fault", [
    "{}", "{snapshots: {replicas: 1}}", "{snapshots: {every: 0}}", "{max_restarts: 1}",
    "{non_finite: skip, max_skips: 5}", "{deadlines: {hang_s: 10, message_s: 30, agent_silence_s: 4}}",
    "{without_spare: shrink, deadlines: {node_return_s: 9}}", "{audit: 2}", "{audit: all}",
])  # fmt: skip
def test_what_is_meant_is_not_doubted(tmp_path: Path, fault: str) -> None:
    assert doubts(load_job(write(tmp_path, fault=fault)).job) == []


def test_a_resume_may_use_a_device_again(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, fault="{quarantine: {lift: [GPU-1]}}")).job
    assert doubts(job, is_new=False) == []
