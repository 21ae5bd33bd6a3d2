"""One owner of the state: events and status.json say the same at every moment. No process runs here."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from dougong.control.messages import Heartbeat, Ping
from dougong.deadlines import Deadlines
from dougong.errors import PlanError
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.policy import Decision
from dougong.job.schema import Job
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.controller.config import ControllerConfig, ResumePoint
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.decide import next_actions
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import AgentMessage, ClientRequest, Committed, SignalReceived
from dougong.launcher.controller.observe import observe_time
from dougong.launcher.controller.states import Ended, Outcome, Recovering, Running, Stage, State, Stop, Stopping
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase, RunEnded, StateChanged
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view
from rich.console import Console
from tests.launcher.toyrun import toy_job, wait_for

QUICK = Deadlines(storage_retry_s=0.02, storage_told_s=0.2)


class NoNodes:
    """A backend whose machine room is empty. `error`: what opening it raises. `closes`: called at its end."""

    phase: Phase = "agents"
    shared_devices = True
    may_grow = False

    def __init__(
        self, error: Exception | None = None, opens_in_s: float = 0.0, closes: Callable[[], None] = lambda: None
    ) -> None:
        self._error, self._opens_in_s, self._closes = error, opens_in_s, closes
        self.is_closed = False

    def open(self) -> str:
        time.sleep(self._opens_in_s)
        if self._error is not None:
            raise self._error
        return "127.0.0.1"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        return []

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        raise AssertionError("there is no place to start anything")

    def end(self, names: Sequence[str]) -> None:
        pass

    def how_ended(self, name: str) -> str:
        return ""

    def ended(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        self.is_closed = True
        self._closes()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def controller(
    run_dir: RunDir, backend: NoNodes, inbox: Inbox | None = None, screen: io.StringIO | None = None
) -> Controller:
    view = make_view(Console(file=screen or io.StringIO(), width=200), "toy", 20)
    config = ControllerConfig(Job.model_validate(toy_job()), "secret", "/", resume_point=ResumePoint(2, 5))
    return Controller(config, inbox or Inbox(), backend, Recorder(run_dir, view, None, QUICK))


def ran(made: Controller) -> Outcome:
    """The outcome, when all of it is written."""
    outcome = made.run()
    assert made.recorder.settle(10) == ()
    return outcome


def states_in_events(run_dir: RunDir) -> list[str]:
    return [event.state for event in run_dir.read_events() if isinstance(event, StateChanged)]


DIAGNOSIS = Diagnosis(Culprit("worker", "east/1"), "crash", "SIGKILL")
STATES: list[State] = [
    Running(1),
    Stopping(1, Stop("SIGINT", 130), 0.0),
    Recovering(DIAGNOSIS, Decision("restart", "1 of 3"), Stage.WORKERS_END, 0.0, was_stopping=True),
    Running(2),
    Ended(Outcome("STOPPED", 130)),
]


def test_every_state_is_an_event_and_in_the_status_at_once(run_dir: RunDir) -> None:
    """A run that is being stopped said RUNNING in status.json until its end: the event had another owner."""
    made = controller(run_dir, NoNodes())
    for state in STATES:
        made.set_state(state)
        made.recorder.settle(10)
        status = run_dir.read_status()
        assert status is not None
        assert states_in_events(run_dir)[-1] == state.name == made.status().state
        assert status.state == state.name
    assert states_in_events(run_dir) == ["RUNNING", "STOPPING", "RECOVERING", "RUNNING", "STOPPED"]


def test_another_stage_of_a_state_is_no_event(run_dir: RunDir) -> None:
    made = controller(run_dir, NoNodes())
    for stage in (Stage.WORKERS_END, Stage.PLACES, Stage.JOIN):
        made.set_state(Recovering(DIAGNOSIS, Decision("restart", "1 of 3"), stage, 0.0))
    made.recorder.settle(10)
    assert states_in_events(run_dir) == ["RECOVERING"]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [(None, 1, "island east needs a node"), (PlanError("no"), 2, "no"), (OSError("no route"), 1, "OSError: no route")],
)
def test_a_run_that_cannot_start_says_why_and_closes_what_it_opened(
    run_dir: RunDir, error: Exception | None, status: int, text: str
) -> None:
    backend = NoNodes(error)
    outcome = ran(controller(run_dir, backend))
    assert (outcome.state, outcome.status) == ("FAILED", status)
    assert text in str(outcome.error)
    assert backend.is_closed
    assert run_dir.read_controller() is None
    *_, ended, state = run_dir.read_events()
    assert isinstance(ended, RunEnded) and (ended.kind, ended.step) == ("failed", 5)
    assert text in str(ended.cause)
    assert isinstance(state, StateChanged) and state.state == "FAILED"


def test_a_signal_ends_a_start_that_hangs(run_dir: RunDir) -> None:
    inbox = Inbox()
    inbox.put(SignalReceived(15))
    outcome = ran(controller(run_dir, NoNodes(opens_in_s=2.0), inbox))
    assert (outcome.state, outcome.status) == ("STOPPED", 143)
    assert states_in_events(run_dir) == ["STARTING", "STOPPED"]
    (ended,) = (event for event in run_dir.read_events() if isinstance(event, RunEnded))
    assert (ended.saved, ended.num_unsaved) == (5, 0)  # the checkpoint is there, and nobody has looked yet


def test_our_own_mistake_is_recorded_and_raised(run_dir: RunDir) -> None:
    inbox = Inbox()
    inbox.put(ClientRequest(None, Ping()))  # type: ignore[arg-type]
    made = controller(run_dir, NoNodes(opens_in_s=1.0), inbox)
    with pytest.raises(AttributeError):
        made.run()
    made.recorder.settle(10)
    ended = [event for event in run_dir.read_events() if isinstance(event, RunEnded)]
    assert len(ended) == 1 and "the controller itself: AttributeError" in str(ended[0].cause)
    assert states_in_events(run_dir) == ["STARTING", "FAILED"]


@pytest.mark.parametrize("file", ["status.json", "events.jsonl"])
def test_a_record_that_cannot_be_written_ends_no_run_and_changes_no_outcome(run_dir: RunDir, file: str) -> None:
    """As on a full disk: it is told on the screen, and the other files say how the run ended."""
    inbox, screen = Inbox(), io.StringIO()
    made = controller(run_dir, NoNodes(opens_in_s=0.5, closes=lambda: inbox.put(SignalReceived(15))), inbox, screen)
    (run_dir.path / file).unlink(missing_ok=True)
    (run_dir.path / file).mkdir()
    outcome = made.run()
    assert (outcome.state, outcome.status) == ("FAILED", 1)
    assert "island east needs a node" in str(outcome.error)
    recorder = made.recorder
    wait_for(lambda: recorder.tick() or f"{file}: cannot" in screen.getvalue(), "it is told", 10)
    if file == "status.json":
        wait_for(lambda: states_in_events(run_dir) == ["STARTING", "FAILED"], "its events", 10)
    else:
        wait_for(lambda: (status := run_dir.read_status()) and status.state == "FAILED", "its status", 10)


def test_what_is_committed_while_the_run_ends_is_in_its_record(run_dir: RunDir) -> None:
    """A second Ctrl-C does not wait for the commit in the background; the checkpoint is there even so."""
    inbox = Inbox()
    inbox.put(SignalReceived(15))
    late = Committed(7, run_dir.checkpoints / "step-000007", 10, 0.1)
    made = controller(run_dir, NoNodes(closes=lambda: inbox.put(late)), inbox)
    assert ran(made).state == "STOPPED"
    kinds = [event.kind for event in run_dir.read_events()]
    assert kinds[-3:] == ["checkpoint_committed", "stopped", "state"]


def test_what_comes_by_the_thousand_is_not_decided_about_one_by_one(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each heartbeat of each agent everybody was looked at: from 100 nodes on nothing else was done."""
    inbox, decisions, looks = Inbox(), 0, 0

    def decide(*given: Any) -> Any:
        nonlocal decisions
        decisions += 1
        return next_actions(*given)

    def look(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        return observe_time(*given)

    monkeypatch.setattr("dougong.launcher.controller.controller.next_actions", decide)
    monkeypatch.setattr("dougong.launcher.controller.controller.observe_time", look)
    for number in range(5000):
        inbox.put(AgentMessage("east", None, Heartbeat(1, number, {})))  # type: ignore[arg-type]
    begun = time.monotonic()
    made = controller(run_dir, NoNodes(opens_in_s=0.3), inbox)
    assert ran(made).state == "FAILED"
    num_ticks = (time.monotonic() - begun) / 0.1 + 2
    assert looks <= num_ticks, "one look a tick"
    assert decisions <= 2 * num_ticks + 20, "and not one a message"
