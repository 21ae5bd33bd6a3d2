"""What is decided is done, and what is learnt on the way comes back. Agents themselves: tests/launcher/test_run.py."""

from __future__ import annotations

import io
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import Acknowledged
from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.controller.act import Actor
from dougong.launcher.controller.actions import (
    AskToStop,
    AskWhoEnded,
    CloseChannel,
    DropAgent,
    ListNodes,
    OpenBackend,
    Record,
    RecordStep,
    ShowException,
    ShowLine,
    StartAgents,
    UsePlan,
)
from dougong.launcher.controller.config import FROM_START, ControllerConfig
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import (
    AgentsEnded,
    AgentsPlaced,
    Awaited,
    BackendOpened,
    NodesListed,
    PeerRefused,
)
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import WarningRaised
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view
from rich.console import Console
from tests.launcher.controller.test_controller import NoNodes
from tests.launcher.toyrun import toy_job

PLAN = make_plan(2, Inventory("toy", (), (), 4, ()), [Seat("east/0", "east", "both", "n", "cpu:0")])


class Knowing(NoNodes):
    """A backend that finds room after a while, and knows why one of its agents is gone."""

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        tell("2 NPU on beta")

    def how_ended(self, name: str) -> str:
        return ""

    def ended(self) -> dict[str, str]:
        return {"west": "its process ended with status 9"}


class Rig:
    """An actor with a screen, a run directory and an inbox of its own."""

    def __init__(self, path: Path) -> None:
        self.run_dir, self.screen, self.inbox = RunDir.create(path), io.StringIO(), Inbox()
        view = make_view(Console(file=self.screen, width=200), "toy", 20)
        config = ControllerConfig(Job.model_validate(toy_job()), "secret", "/")
        self.recorder = recorder = Recorder(self.run_dir, view, None)
        self.actor = Actor(config, RunFacts.at(FROM_START), self.inbox, Knowing(), recorder)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "run")


def test_news_are_recorded_and_shown(rig: Rig) -> None:
    rig.actor.act(Record(WarningRaised(generation=1, text="slow disk")))
    row = {
        "step": 1,
        "generation": 1,
        "loss": 1.0,
        "tokens": 64,
        "step_s": 0.1,
        "tokens_per_s": 640.0,
        "grad_norm": 1.0,
    }
    rig.actor.act(RecordStep({**row, "lr": 1e-3, "islands": {}}))
    rig.actor.act(ShowLine("east/0", "hello"))
    rig.actor.act(ShowException("east/0", WorkerRaised("ValueError", ("ValueError",), "x")))
    rig.actor.act(UsePlan(PLAN))
    assert rig.recorder.settle(10) == ()
    assert [event.kind for event in rig.run_dir.read_events()] == ["warning"]
    assert [row["step"] for row in rig.run_dir.read_metrics()] == [1]
    assert rig.run_dir.read_plan() == PLAN
    assert "slow disk" in rig.screen.getvalue() and "hello" in rig.screen.getvalue()


def test_what_a_start_waits_for_and_who_has_ended_comes_back(rig: Rig) -> None:
    rig.actor.act(StartAgents((), ()))
    assert [rig.inbox.get(10), rig.inbox.get(10)] == [Awaited("2 NPU on beta"), AgentsPlaced()]
    # Agents that are being started are asked to show that they share the run directory.
    assert [path.parent.name for path in rig.run_dir.path.rglob(".proof.*")].count("checkpoints") == 1
    rig.actor.act(AskWhoEnded())
    assert rig.inbox.get(10) == AgentsEnded({"west": "its process ended with status 9"})
    rig.actor.close()
    assert not list(rig.run_dir.path.rglob(".proof.*"))


def test_a_client_is_answered_and_its_connection_closed(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    client = Channel(theirs, "controller", DEADLINES)
    rig.actor.act(CloseChannel(Channel(ours, "a client", DEADLINES), Acknowledged()))
    assert client.receive(10) == Acknowledged()
    with pytest.raises(EOFError):
        client.receive(10)


def test_a_client_that_has_left_is_reported(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    rig.actor.act(CloseChannel(Channel(ours, "a client", DEADLINES), Acknowledged()))
    refused = rig.inbox.get(10)
    assert isinstance(refused, PeerRefused) and "left before its answer" in refused.text


def test_a_backend_is_opened_and_listened_for(rig: Rig) -> None:
    rig.actor.act(OpenBackend())
    assert rig.inbox.get(60) == BackendOpened("127.0.0.1")
    rig.actor.act(ListNodes("127.0.0.1", ()))
    assert rig.inbox.get(60) == NodesListed(())
    rig.actor.act(AskToStop(1))  # nobody has joined: nobody is asked
    rig.actor.act(DropAgent("east"))
    assert rig.run_dir.read_controller() is not None
    rig.actor.close()
