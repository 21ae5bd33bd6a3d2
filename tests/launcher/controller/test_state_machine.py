"""The run as a state machine: what comes in, and which states, actions and events come out. No process runs here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from dougong.checkpoint.repository import RejectedCheckpoint
from dougong.control.messages import AgentReady, Challenge, Heartbeat, OutputLine, WorkerForked
from dougong.control.progress import WorkerProgress
from dougong.control.worker_messages import DrillAnnounced, ModelFound, UpdateSkipped, WorkerWarning
from dougong.errors import CheckpointError
from dougong.launcher.controller.actions import ForkGeneration, RecordStep
from dougong.launcher.controller.config import ResumePoint
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.items import (
    CommitFailed,
    FoundCheckpoint,
    PeerRefused,
    SignalReceived,
    TaskFailed,
)
from dougong.launcher.controller.states import Recovering, Running, Stopping
from tests.launcher.controller.machine import (
    ALL,
    INVENTORY,
    MODEL,
    START,
    UP_TO_JOIN,
    UP_TO_MODEL,
    UP_TO_READY,
    Joins,
    Leaves,
    Passes,
    Says,
    Step,
    committed,
    done,
    exits,
    found,
    killed,
    machine,
    part,
    raises,
    running,
    step,
    worker,
)

SIGINT, SIGTERM = SignalReceived(2), SignalReceived(15)
DIES = ["worker_died", "diagnosis", "decision"]
LOST = ["diagnosis", "decision"]


@dataclass(frozen=True)
class Case:
    """`given` to a running generation 1 (or to `START`ing ones, where `fresh`): states, actions and events that follow.

    `culprit`, `cause`: of the first diagnosis. `reason`: in the outcome's error. `status`: the exit status of an end.
    """

    name: str
    given: list[Any]
    states: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    culprit: str = ""
    cause: str = ""
    reason: str = ""
    status: int | None = None
    job: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False


def recovered(*alive: str, generation: int = 1, checkpoint: int | None = 5) -> list[Step]:
    """The old generation's workers end, a checkpoint is found."""
    return [*killed(*alive, generation=generation), found(checkpoint)]


NO_VALID_ONE = CheckpointError("/run/checkpoints: no checkpoint is valid")
NONE_IS_VALID = FoundCheckpoint(None, (RejectedCheckpoint("step-000005", "torn"),), refusal=NO_VALID_ONE)
LAST_PARTS = [part(name, 20) for name in ALL]
AGAIN = [exits("east/1", -9), *killed("east/0", "west/0"), found(5, _6="aa", _7="bb")]
"""Generation 2 begins after step 5; generation 1 has recorded two steps more."""
RESTARTS = ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2"]
ONCE = {"fault": {"max_restarts": 1}}
NEVER = {"fault": {"max_restarts": 0}}

CASES = [
    Case(
        "a start asks for one thing after the other",
        START,
        ["RUNNING"],
        [
            "ListNodes", "StartAgents east west", "AdoptChannel east", "AdoptChannel west", "AskForModel east",
            "UseModel", "UsePlan", "FindCheckpoint", "ForkGeneration 1",
        ],
        ["agents_started", "inspected", "planned", "generation_started"],
        fresh=True,
    ),
    Case("a stop while agents start ends the run", [*UP_TO_JOIN, SIGTERM], ["STOPPED"], events=["stop_requested"],
         actions=["ListNodes", "StartAgents east west"], status=143, fresh=True),
    Case("agents that do not come end the start", [*UP_TO_JOIN, Passes(121)], ["FAILED"], status=1, fresh=True,
         actions=["ListNodes", "StartAgents east west", "AskWhoEnded", "GiveUp"],
         reason="no first message of agents east, west: the controller waited 120 s (fault.deadlines.agents_join_s)"),
    Case("an agent that is lost ends the start", [*UP_TO_READY, Leaves("west"), Passes(1.1)], ["FAILED"], status=1,
         fresh=True,
         actions=["ListNodes", "StartAgents east west", "AdoptChannel east", "AdoptChannel west", "AskWhoEnded",
                  "DropAgent west"],
         events=["agents_started"], reason="agent west on here: its connection ended"),
    Case("a backend that cannot open ends the start", [TaskFailed(OSError("no route"))], ["FAILED"], status=1,
         reason="OSError: no route", fresh=True),
    Case("a model that cannot be built is the user's mistake",
         [*UP_TO_MODEL, raises("east/0", "ModelError", message="no router", generation=0, task="inspect")],
         ["FAILED"], status=2, reason="no router", fresh=True,
         actions=["ListNodes", "StartAgents east west", "AdoptChannel east", "AdoptChannel west", "AskForModel east",
                  "ShowException east/0"],
         events=["agents_started"]),
    Case("an agent lost while a checkpoint is searched is the first generation's failure",
         [*UP_TO_MODEL, MODEL, Leaves("west"), found()], ["RUNNING", "RECOVERING"], culprit="agent west",
         actions=["ListNodes", "StartAgents east west", "AdoptChannel east", "AdoptChannel west", "AskForModel east",
                  "UseModel", "UsePlan", "FindCheckpoint", "DropAgent west", "ForkGeneration 1", "EndGeneration 1"],
         events=["agents_started", "inspected", "planned", "generation_started", *LOST], fresh=True),

    Case("steps are recorded, the first one is an event", [step(1), step(2)], actions=["RecordStep", "RecordStep"],
         events=["first_step"]),
    Case("what an older generation says is of no account", [step(9, 7), exits("east/0", -9, 7)]),
    Case("a death ends the generation and begins the next",
         [step(1), exits("east/1", -9), *recovered("east/0", "west/0")],
         ["RECOVERING", "RUNNING"],
         ["RecordStep", "EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2"],
         ["first_step", *DIES, "generation_started"], culprit="east/1", cause="SIGKILL from outside the run"),
    Case("an echo waits for its cause", [raises("east/0", "PeerError"), Passes(0.5), exits("east/1", -11)],
         ["RECOVERING"], ["ShowException east/0", "EndGeneration 1"], DIES, culprit="east/1", cause="SIGSEGV"),
    Case("an echo alone is named after a while", [raises("east/0", "PeerError"), Passes(0.5), Passes(0.6)],
         ["RECOVERING"], ["ShowException east/0", "EndGeneration 1"], DIES, culprit="east/0", cause="PeerError: x"),
    Case("an abort is a consequence where there is a cause",
         [exits("east/0", -6), Passes(0.5), raises("east/1", "ValueError", "Exception")],
         ["RECOVERING"], ["ShowException east/1", "EndGeneration 1"], DIES, culprit="east/1", cause="ValueError"),
    Case("an abort is the cause where there are only lost peers",
         [raises("east/0", "PeerError"), exits("west/0", -6), raises("east/1", "PeerError")],
         ["RECOVERING"], ["ShowException east/0", "ShowException east/1", "EndGeneration 1"], DIES, culprit="west/0",
         cause="SIGABRT"),
    Case("an out-of-memory twice with no step in between is not tried a third time",
         [exits("east/1", -9, oom=True), *recovered("east/0", "west/0"), exits("east/1", -9, 2, oom=True),
          *killed("east/0", "west/0", generation=2)],
         ["RECOVERING", "RUNNING", "RECOVERING", "FAILED"],
         ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2", "EndGeneration 2", "ForgetParts"],
         [*DIES, "generation_started", *DIES], culprit="east/1", status=1,
         cause="killed by the kernel, out of memory; the plan counts 0 GB at the peak of the 3 workers on here",
         reason="SIGKILL came twice with no step in between, so it is taken for one that would come again"),
    Case("several dead at once are one failure",
         [[exits("west/0", -9)], [exits("east/0", -9), exits("east/1", -9)], found(5)],
         ["RECOVERING", "RUNNING"], ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2"],
         [*DIES, "survivor_lost", "survivor_lost", "generation_started"], culprit="west/0"),
    Case("wrong data is not tried again", [raises("east/0", "DataError"), killed(*ALL)], ["RECOVERING", "FAILED"],
         ["ShowException east/0", "EndGeneration 1", "ForgetParts"], DIES, culprit="east/0", status=1,
         reason="a data error would come again"),
    Case("a step that is not finite is not tried again", [step(1), raises("east/0", "NumericsError"), killed(*ALL)],
         ["RECOVERING", "FAILED"], ["RecordStep", "ShowException east/0", "EndGeneration 1", "ForgetParts"],
         ["first_step", *DIES], culprit="east/0", status=1, reason="a numerics error would come again"),
    Case("the run does not end before the checkpoint that was whole is committed",
         [*LAST_PARTS, raises("east/0", "NumericsError"), killed(*ALL), Passes(60), committed(20)],
         ["RECOVERING", "FAILED"],
         ["CommitCheckpoint 20", "ShowException east/0", "EndGeneration 1", "ForgetParts"],
         ["checkpoint_started", *DIES, "checkpoint_committed"], culprit="east/0", status=1, reason="numerics"),
    Case("a checkpoint that is never committed does not hold up the run's end for ever",
         [*LAST_PARTS, raises("east/0", "NumericsError"), killed(*ALL), Passes(1801)], ["RECOVERING", "FAILED"],
         ["CommitCheckpoint 20", "ShowException east/0", "EndGeneration 1", "ForgetParts"],
         ["checkpoint_started", *DIES], culprit="east/0", status=1, reason="numerics"),
    Case("a step without its update is told", [worker("east/0", UpdateSkipped(7, 1.0, float("inf"), "a gradient", 2))],
         events=["step_skipped"]),
    Case("a restart budget that is used up ends the run with the first cause",
         [exits("east/1", -9), *recovered("east/0", "west/0"),
          exits("west/0", 3, 2), *killed("east/0", "east/1", generation=2)],
         ["RECOVERING", "RUNNING", "RECOVERING", "FAILED"],
         ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2", "EndGeneration 2", "ForgetParts"],
         [*DIES, "generation_started", *DIES], culprit="east/1", status=1, job=ONCE,
         reason="east/1: crash: SIGKILL from outside the run (first of 2 failures"),
    Case("steps that are computed again with the same bits are told",
         [*AGAIN, step(6, 2, "aa"), step(7, 2, "bb"), step(8, 2, "cc")], ["RECOVERING", "RUNNING"],
         [*RESTARTS, *["RecordStep"] * 3], [*DIES, "generation_started", "first_step", "recovered", "steps_recomputed"],
         culprit="east/1"),
    Case("other bits end a run that promises them, and commit nothing",
         [*AGAIN, step(6, 2, "aa"), part("east/0", 7, 2), part("east/1", 7, 2),
          [step(7, 2, "xx"), part("west/0", 7, 2)]],
         ["RECOVERING", "RUNNING", "FAILED"], [*RESTARTS, *["RecordStep"] * 2],
         [*DIES, "generation_started", "first_step", "recovered", "checkpoint_started", "steps_recomputed"],
         culprit="east/1", status=1,
         reason="step 7: generation 2 has computed it again with other bits than generation 1"),
    Case("other bits are told where nothing is promised",
         [*AGAIN, step(6, 2, "xx"), step(7, 2, "yy"), *[part(name, 7, 2) for name in ALL]], ["RECOVERING", "RUNNING"],
         [*RESTARTS, *["RecordStep"] * 2, "CommitCheckpoint 7"],
         [*DIES, "generation_started", "first_step", "recovered", "steps_recomputed", "checkpoint_started"],
         culprit="east/1", job={"numerics": "bounded"}),
    Case("what has been compared is told when the generation fails",
         [*AGAIN, step(6, 2, "aa"), exits("west/0", -9, 2)], ["RECOVERING", "RUNNING", "RECOVERING"],
         [*RESTARTS, "RecordStep", "EndGeneration 2"],
         [*DIES, "generation_started", "first_step", "recovered", "steps_recomputed", *DIES], culprit="east/1"),
    Case("workers that SIGKILL does not end are left behind",
         [exits("east/1", -9), Passes(10.1), Passes(10.1), found(5)], ["RECOVERING", "RUNNING"],
         ["EndGeneration 1", "KillLate 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2"],
         [*DIES, "warning", "generation_started"], culprit="east/1"),

    Case("a stop lets the step end", [step(1), SIGINT, step(2), *done(*ALL)], ["STOPPING", "STOPPED"],
         ["RecordStep", "AskToStop 1", "RecordStep"], ["first_step", "stop_requested"], status=130),
    Case("a stop in the last step is the end of the job", [step(19), SIGTERM, step(20), *done(*ALL)],
         ["STOPPING", "FINISHED"], ["RecordStep", "AskToStop 1", "RecordStep"], ["first_step", "stop_requested"],
         status=0),
    Case("a second stop does not wait, and says so", [step(1), SIGINT, SIGTERM], ["STOPPING", "STOPPED"],
         ["RecordStep", "AskToStop 1"], ["first_step", "stop_requested", "stop_requested"], status=130),
    Case("a stop while recovering ends the run", [exits("east/1", -9), SIGINT], ["RECOVERING", "STOPPED"],
         ["EndGeneration 1"], [*DIES, "stop_requested"], status=130),
    Case("a stop while the last checkpoint is committed loses nothing",
         [step(20), *LAST_PARTS, *done(*ALL), SIGINT, committed(20)],
         ["FINISHED"], ["RecordStep", "CommitCheckpoint 20"],
         ["first_step", "checkpoint_started", "stop_requested", "checkpoint_committed"], status=0),
    Case("a second stop does not wait for the last checkpoint", [step(20), *LAST_PARTS, *done(*ALL), SIGINT, SIGINT],
         ["STOPPED"], ["RecordStep", "CommitCheckpoint 20"],
         ["first_step", "checkpoint_started", "stop_requested", "stop_requested"], status=130),
    Case("a recovery that finds no valid checkpoint any more begins nothing anew",
         [exits("east/1", -9), *killed("east/0", "west/0"), NONE_IS_VALID], ["RECOVERING", "FAILED"],
         ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "GiveUp"], [*DIES, "checkpoint_rejected"],
         culprit="east/1", status=1, reason="no checkpoint is valid"),
    Case("a run that loses a worker while it is stopped is stopped without that step",
         [step(1), SIGINT, exits("east/1", -9), *killed("east/0", "west/0")],
         ["STOPPING", "RECOVERING", "STOPPED"], ["RecordStep", "AskToStop 1", "EndGeneration 1", "ForgetParts"],
         ["first_step", "stop_requested", *DIES], culprit="east/1", status=130),
    Case("a second stop ends a recovery that a stop had met",
         [step(1), SIGINT, exits("east/1", -9), SIGINT], ["STOPPING", "RECOVERING", "STOPPED"],
         ["RecordStep", "AskToStop 1", "EndGeneration 1"],
         ["first_step", "stop_requested", *DIES, "stop_requested"], status=130),

    Case("an agent that falls silent is lost", [Passes(10.1, silent=("west",))], ["RECOVERING"],
         ["DropAgent west", "EndGeneration 1"], ["suspect", *LOST], culprit="agent west",
         cause="no heartbeat for 10 s (fault.deadlines.agent_silence_s)"),
    Case("words of an agent's former life are not heard", [Leaves("west"), Says("west", AgentReady(9))],
         ["RECOVERING"], ["DropAgent west", "EndGeneration 1"], LOST, culprit="agent west"),

    Case("a commit that ends late ends the run", [step(20), *LAST_PARTS, *done(*ALL), Passes(60), committed(20)],
         ["FINISHED"], ["RecordStep", "CommitCheckpoint 20"],
         ["first_step", "checkpoint_started", "checkpoint_committed"], status=0),
    Case("a last commit that fails is a failure of the run",
         [step(20), *LAST_PARTS, *done(*ALL), CommitFailed(20, CheckpointError("torn"))], ["FAILED"],
         ["RecordStep", "CommitCheckpoint 20"], ["first_step", "checkpoint_started", "checkpoint_failed"], status=1,
         reason="no checkpoint yet: torn"),
    Case("a commit that fails before the last one is told, and heals",
         [*[part(name, 5) for name in ALL], CommitFailed(5, OSError("full")), *LAST_PARTS, committed(20), *done(*ALL)],
         ["FINISHED"], ["CommitCheckpoint 5", "CommitCheckpoint 20"],
         ["checkpoint_started", "checkpoint_failed", "checkpoint_started", "checkpoint_committed"], status=0),
    Case("a last commit that takes too long is given up", [*LAST_PARTS, *done(*ALL), Passes(1801)], ["FAILED"],
         ["CommitCheckpoint 20"], ["checkpoint_started"], status=1, reason="fault.deadlines.commit_checkpoint_s"),
    Case("a last part that is missing is a failure of the run", [*LAST_PARTS[:2], *done(*ALL)], ["FAILED"],
         events=["checkpoint_started"], status=1, reason="the checkpoint of step 20 is not whole"),
    Case("parts of a generation that failed are forgotten",
         [part("east/0", 5), exits("east/1", -9), *recovered("east/0", "west/0"),
          *[part(name, 5, 2) for name in ALL]], ["RECOVERING", "RUNNING"],
         ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2", "CommitCheckpoint 5"],
         ["checkpoint_started", *DIES, "generation_started", "checkpoint_started"], culprit="east/1"),

    Case("a drill is told from a death", [worker("east/1", DrillAnnounced(7, "kill")), exits("east/1", -9)],
         ["RECOVERING"], ["EndGeneration 1"], ["drill", *DIES], culprit="east/1", cause="as its drill said"),
    Case("one worker that does not end has hung",
         [*done("east/0", "west/0"), Passes(601), *killed("east/1"), found(5)], ["RECOVERING", "RUNNING"],
         ["EndGeneration 1", "ForgetParts", "FindCheckpoint", "ForkGeneration 2"],
         ["warning", *DIES, "generation_started"], culprit="east/1",
         cause="still at work 600 s (fault.deadlines.last_worker_s)"),
    Case("a worker that says it is done and dies has failed", [*done("east/0"), exits("east/1", 0)], ["RECOVERING"],
         ["EndGeneration 1"], DIES, culprit="east/1", cause="left before its work was done"),
    Case("a worker that cannot be begun has failed", [exits("east/1", 1, text="cannot fork")], ["RECOVERING"],
         ["EndGeneration 1"], DIES, culprit="east/1", cause="cannot fork"),
    Case("a stall is a warning, once", [Passes(121), Passes(10)], events=["warning"] * 3),

    Case("what cannot be understood is a warning", [PeerRefused("not a message: b'x'")], events=["warning"]),
    Case("a message at the wrong place is a warning",
         [Says("east", Challenge("n")), worker("east/0", ModelFound(INVENTORY, {}))], events=["warning", "warning"]),
    Case("a worker's warning is one", [worker("west/0", WorkerWarning("slow disk"))], events=["warning"]),
    Case("an agent that nobody expects is turned away", [Joins("north")], actions=["CloseChannel"], events=["warning"]),
    Case("lines are shown until somebody has failed",
         [Says("east", OutputLine(1, "east/0", "hello")), raises("east/1", "ValueError"),
          Says("east", OutputLine(1, "east/0", "bye")), Says("east", OutputLine(1, "east/1", "Traceback"))],
         ["RECOVERING"], ["ShowLine east/0", "ShowException east/1", "EndGeneration 1", "ShowLine east/1"],
         DIES, culprit="east/1"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_follows(case: Case) -> None:
    made = machine(**case.job) if case.fresh else running(**case.job)
    made.clear().play(*case.given)
    assert made.states == case.states
    assert made.names() == case.actions
    assert made.kinds() == case.events
    diagnoses = [event for event in made.events if event.kind == "diagnosis"]
    if case.culprit:
        assert (str(diagnoses[0].culprit), case.cause in diagnoses[0].cause) == (case.culprit, True), diagnoses[0]
    if case.status is not None:
        assert made.outcome.status == case.status
        assert case.reason in str(made.outcome.error)
    elif made.states:
        assert made.states[-1] in ("RUNNING", "STOPPING", "RECOVERING")


def test_a_resume_that_changed_what_may_change_bits_is_told_and_goes_on() -> None:
    made = running()
    made.facts.same_since = 2
    made.play(*AGAIN, step(6, 2, "xx"))
    assert made.event("steps_recomputed").differs_from == 1
    assert made.state == Running(2)


def test_a_resume_by_hand_begins_the_count_of_recoveries_anew() -> None:
    """As the schema says of `fault.max_restarts`: a person has looked."""
    spent = running(**ONCE)
    spent.play(
        exits("east/1", -9), *recovered("east/0", "west/0"), exits("east/1", -9, 2), *killed("east/0", generation=2)
    )
    assert [event.action for event in spent.events if event.kind == "decision"] == ["restart", "fail"]
    resumed = machine(**ONCE)
    resumed.facts = RunFacts.at(ResumePoint(3, 5, has_committed=True))
    resumed.play(START[:-1], found(5)).clear().play(exits("east/1", -9, 3))
    assert resumed.event("decision").action == "restart"


def test_a_state_carries_its_data() -> None:
    made = running()
    assert made.state == Running(1)
    made.play(step(1), SIGINT)
    assert isinstance(made.state, Stopping) and (made.state.generation, made.state.stop.by) == (1, "SIGINT")
    made.play(exits("east/1", -9))
    assert isinstance(made.state, Recovering) and made.state.was_stopping
    assert made.state.diagnosis.worker == "east/1"


def test_followers_are_named_with_the_first() -> None:
    made = running().play(raises("east/0", "PeerError"), raises("west/0", "PeerError"), exits("east/1", -9))
    assert made.event("diagnosis").followed_by == ("east/0", "west/0")


def test_a_generation_goes_on_where_the_checkpoint_stands() -> None:
    made = running().play(step(7), exits("east/1", -9), *recovered("east/0", "west/0", checkpoint=5))
    started = made.event("generation_started")
    assert (started.generation, started.resume, started.step) == (2, "step-000005", 5)
    assert (made.facts.step, made.facts.number) == (5, 2)
    fork = next(action for action in made.actions if isinstance(action, ForkGeneration))
    assert fork.resume is not None and fork.resume.name == "step-000005"


def test_a_drill_that_has_fired_is_not_given_to_the_next_generation() -> None:
    made = running(drill=[{"at_step": 7, "kill": "east/1"}, {"at_step": 9, "kill": "east/0"}])
    made.play(worker("east/1", DrillAnnounced(7, "kill")), exits("east/1", -9), *recovered("east/0", "west/0"))
    fork = next(action for action in made.actions if isinstance(action, ForkGeneration))
    assert [(drill.at_step, drill.kill) for drill in fork.drills] == [(9, "east/0")]


def test_a_drill_that_the_run_survives_makes_no_later_death_its_own() -> None:
    made = running().play(worker("east/1", DrillAnnounced(7, "pause")), exits("east/1", -9))
    assert made.event("diagnosis").cause == "SIGKILL from outside the run"


def test_rows_say_which_generation_they_are_of() -> None:
    made = running().play(step(1))
    (row,) = [action.row for action in made.actions if isinstance(action, RecordStep)]
    assert (row["generation"], row["step"]) == (1, 1)


def test_progress_is_what_heartbeats_say() -> None:
    made = running().play(
        Says("east", WorkerForked(1, "east/0", 4711)),
        Says("east", Heartbeat(1, 1, {"east/0": WorkerProgress(3, 6, "forward", 2)})),
    )
    assert made.facts.generation is not None
    described = made.facts.generation.workers["east/0"].describe()
    assert (described.pid, described.step, described.phase, described.alive) == (4711, 6, "forward", True)
