"""A command in a host: its output, its status, its deadline."""

from __future__ import annotations

import signal

import pytest
from dougong.testing import Lab, LabError

pytestmark = pytest.mark.lab


def test_status_and_both_streams(lab: Lab) -> None:
    done = lab.hosts[0].run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.status, done.output) == (3, "out\nerr\n")
    assert lab.hosts[0].run(["sh", "-c", "kill -9 $$"]).status == -signal.SIGKILL


def test_a_command_past_its_deadline_is_ended_with_its_output_in_the_error(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"(?s)node1: `sh -c .*not ended within 0.5 s; its output:\nworking"):
        lab.hosts[1].run(["sh", "-c", "echo working; sleep 100; true"], timeout_s=0.5)
    assert not lab.hosts[1].processes()


def test_a_process_is_signalled_itself(lab: Lab) -> None:
    process = lab.hosts[0].start(["sh", "-c", 'trap "echo asked; exit 7" TERM; echo on; while :; do sleep 0.05; done'])
    assert process.wait_for("on", 20) == "on\n"
    assert process.status is None
    process.signal(signal.SIGTERM)
    assert process.wait(20) == 7
    assert process.output == "on\nasked\n"
    process.signal(signal.SIGTERM)  # it has ended: no error


def test_what_is_waited_for_may_never_come(lab: Lab) -> None:
    with pytest.raises(LabError, match="ended without printing 'more'"):
        lab.hosts[0].start(["echo", "less"]).wait_for("more", 20)
    late = lab.hosts[0].start(["sleep", "100"])
    with pytest.raises(LabError, match="has not printed 'more' within 0.2 s"):
        late.wait_for("more", 0.2)
    assert late.status == -signal.SIGKILL


def test_a_program_that_is_not_there(lab: Lab) -> None:
    assert lab.hosts[0].run(["no-such-program"]).status == 127
    with pytest.raises(LabError, match="node0: `no-such-program` ended with 127"):
        lab.hosts[0].check(["no-such-program"])
