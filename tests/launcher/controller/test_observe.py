"""What an item changes in the facts, and what of it is news."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import Acknowledged, Message, Ping, RequestRefused, StopRun, WorkerExited, WorkerForked
from dougong.deadlines import DEADLINES
from dougong.errors import JobError, LaunchError, StorageError
from dougong.fault.drill import FiredDrill
from dougong.launcher.backends.base import RayNews
from dougong.launcher.controller.actions import CloseChannel, Record
from dougong.launcher.controller.config import ResumePoint
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.items import ClientRequest, SignalReceived, TaskFailed
from dougong.launcher.controller.observe import as_ours, observe
from dougong.launcher.controller.states import Stop
from dougong.records.events import StopRequested, WarningRaised
from tests.launcher.controller.machine import Leaves, Says, committed, found, part, raises, running


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    made = Channel(ours, "a client", DEADLINES)
    yield made
    made.close()
    theirs.close()


@pytest.fixture
def facts() -> RunFacts:
    return RunFacts.at(ResumePoint(3, 10, frozenset({FiredDrill("kill", "east/1", 7)})))


def test_a_resumed_run_begins_where_its_record_ends(facts: RunFacts) -> None:
    assert (facts.number, facts.step, facts.fired) == (2, 10, {FiredDrill("kill", "east/1", 7)})


@pytest.mark.parametrize(
    ("request_", "answer", "stop"),
    [
        (Ping(), Acknowledged(), None),
        (StopRun(), Acknowledged(), Stop("dougong stop", 130)),
        (StopRun(now=True), Acknowledged(), Stop("dougong stop", 130, now=True)),
        (WorkerForked(1, "east/0", 7), RequestRefused("unknown request: a message of kind 'worker_forked'"), None),
    ],
)
def test_a_client_is_answered(
    facts: RunFacts, channel: Channel, request_: Message, answer: Message, stop: Stop | None
) -> None:
    first, *others = observe(facts, ClientRequest(channel, request_), 0.0)
    assert first == CloseChannel(channel, answer)  # before anything else is done about it
    assert facts.stop == stop
    assert len(others) == (stop is not None)


def test_the_second_request_to_stop_does_not_wait_and_is_an_event_once(facts: RunFacts) -> None:
    assert observe(facts, SignalReceived(15), 0.0) == (Record(StopRequested(generation=2, by="SIGTERM")),)
    assert facts.stop == Stop("SIGTERM", 143)
    urgent = StopRequested(generation=2, by="SIGINT", now=True)
    assert observe(facts, SignalReceived(2), 0.0) == (Record(urgent),)
    assert facts.stop == Stop("SIGTERM", 143, now=True)
    assert observe(facts, SignalReceived(2), 0.0) == ()


def test_a_terminal_that_is_closed_has_its_own_exit_status(facts: RunFacts) -> None:
    observe(facts, SignalReceived(1), 0.0)
    assert facts.stop == Stop("SIGHUP", 129)


def test_dougong_stop_said_again_is_the_same_wish_and_now_is_another(facts: RunFacts, channel: Channel) -> None:
    """Whoever asks again after a deadline must not lose the checkpoint that is being written."""
    for _ in range(2):
        observe(facts, ClientRequest(channel, StopRun()), 0.0)
        assert facts.stop == Stop("dougong stop", 130)
    _, event = observe(facts, ClientRequest(channel, StopRun(now=True)), 0.0)
    assert event == Record(StopRequested(generation=2, by="dougong stop", now=True))
    assert facts.stop == Stop("dougong stop", 130, now=True)


def test_an_error_of_a_file_names_it() -> None:
    error = as_ours(OSError(28, "No space left on device", "/run/logs"))
    assert isinstance(error, StorageError)
    assert str(error) == "/run/logs: No space left on device; make room or mend it, then go on with the run"


def test_an_error_of_ours_keeps_its_class() -> None:
    assert as_ours(error := JobError("x")) is error
    other = as_ours(OSError("no route"))
    assert isinstance(other, LaunchError) and str(other) == "OSError: no route"


def test_a_background_error_is_a_fact(facts: RunFacts) -> None:
    assert observe(facts, TaskFailed(JobError("x")), 0.0) == ()
    assert isinstance(facts.error, JobError)


def test_what_a_child_before_the_first_generation_raises_is_known_to_the_screen() -> None:
    made = running()
    raised = raises("east/0", "DataError", "DougongError", message="empty", generation=0, task="inspect")
    made.play(raised)
    assert made.names() == ["ShowException east/0"]


def test_the_parent_of_the_next_checkpoint_is_the_newest() -> None:
    made = running()
    assert made.facts.checkpoints.parent is None
    made.play([part(name, 5) for name in ("east/0", "east/1", "west/0")], committed(5))
    assert made.facts.checkpoints.parent == "step-000005"
    made.facts.checkpoints.note_found(found(None), 0.0)
    assert made.facts.checkpoints.parent is None


def test_workers_that_are_not_of_the_plan_are_not_heard() -> None:
    exited = WorkerExited(1, "north/0", "train", -9)
    made = running().play(Says("east", WorkerForked(1, "north/0", 7)), Says("east", exited))
    assert made.facts.generation is not None and not made.facts.generation.failures


def test_what_becomes_of_ray_is_told_and_changes_nothing_for_those_who_train() -> None:
    made = running().play(RayNews("head", True, "the head is gone"))
    told = made.event("ray")
    assert (told.part, told.is_lost, made.facts.ray) == ("head", True, "the head is gone")
    assert told.text == "the head is gone; training goes on, and needs Ray only to find another node"
    made.play(RayNews("head", False, "Ray answers again"))
    assert (made.facts.ray, made.events[-1].text) == ("", "Ray answers again")


def test_what_is_to_be_known_of_a_cluster_is_a_warning_and_no_loss(facts: RunFacts) -> None:
    (news,) = observe(facts, RayNews("head", False, "asks nobody for a token", is_warning=True), 0.0)
    assert isinstance(news, Record) and isinstance(news.event, WarningRaised)
    assert news.event.text == "asks nobody for a token" and not facts.ray


def test_of_an_agent_that_is_lost_nobody_is_told_that_ray_holds_nothing_for_it() -> None:
    news = RayNews("raylet", True, "Ray holds nothing for agent east any more: its node has died", "east")
    made = running().play(news)
    assert (made.event("ray").part, made.facts.ray) == ("raylet", ""), "it lives"
    num_events = len(made.events)
    made.play(Leaves("east"))
    assert not [event for event in made.play(news).events[num_events:] if event.kind == "ray"]
