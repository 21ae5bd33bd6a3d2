"""The controller: the one state machine of a run, in one thread.

It goes round: `observe` what has come, `decide` what to do, `act`. The state is set in one place,
which writes the event and status.json together. No wait is without a deadline, but for the training
itself.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import Literal

from dougong.errors import (
    CheckpointError,
    DougongError,
    LaunchError,
    PreemptedError,
    ReproducibilityError,
    StorageError,
    SupersededError,
)
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import FailureKind, mistake_in
from dougong.launcher.agent.facts import software_here
from dougong.launcher.backends.base import Backend
from dougong.launcher.controller.act import Actor
from dougong.launcher.controller.actions import Action, Enter, GiveUp, News, OpenBackend
from dougong.launcher.controller.config import FROM_START, ControllerConfig, RunPolicy
from dougong.launcher.controller.decide import next_actions
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import (
    AgentBeat,
    CheckpointsPruned,
    CommitFailed,
    Committed,
    Item,
    is_routine,
)
from dougong.launcher.controller.inbound.rhythm import Rhythm
from dougong.launcher.controller.observe import observe, observe_time
from dougong.launcher.controller.observe_health import (
    health_words,
    suspect_words,
    tell_own_pause,
)
from dougong.launcher.controller.reserve import Reserve
from dougong.launcher.controller.states import (
    Ended,
    FinalState,
    Outcome,
    Stage,
    Starting,
    StartPhases,
    State,
)
from dougong.records import events
from dougong.records.status import RunStatus
from dougong.records.unsaved import commit_words
from dougong.ui.next_step import MISTAKES
from dougong.ui.recorder import Recorder

_KINDS: dict[FinalState, Literal["finished", "stopped", "failed"]] = {
    "FINISHED": "finished",
    "STOPPED": "stopped",
    "FAILED": "failed",
}


class Controller:
    """One run. `run` may be called once; signals and everything else reach it through the inbox.
    What it has said may still be on its way to storage: `recorder.settle`."""

    def __init__(
        self, config: ControllerConfig, inbox: Inbox, backend: Backend, recorder: Recorder
    ) -> None:
        self._config = config
        self._inbox = inbox
        self.recorder = recorder
        self._facts = RunFacts.at(config.resume_point, config.job.fault.quarantine.lift)
        point = config.resume_point
        if point.died is not None:
            self._facts.recoveries.follow(point.generation - 1, *point.died, time.monotonic())
        self._actor = Actor(config, self._facts, inbox, backend, recorder)
        self._policy = RunPolicy(
            config.job,
            recorder.run_dir,
            config.deadlines,
            config.takes_fingerprints,
            backend.shared_devices,
            software_here(config.job, config.sources),
            config.knows_beginning,
            backend.may_grow,
            config.is_followed,
        )
        self._myself = Culprit("controller", str(config.fence), socket.gethostname())
        self._phases = StartPhases(backend.phase, config.takes_fingerprints)
        self._state: State = Starting(Stage.BACKEND, time.monotonic())
        deadlines = config.deadlines
        self._looked_at = time.monotonic()
        self._looks = Rhythm(deadlines.tick_every_s, deadlines.longest_look_s)
        self._decisions = Rhythm(0.0, deadlines.longest_batch_s)
        self._writes = Rhythm(deadlines.status_every_s, deadlines.longest_status_s)

    def run(self) -> Outcome:
        """Train to the end of the job, whatever happens on the way. Leaves no process behind."""
        try:
            outcome = self._run()
        except DougongError as error:
            outcome = Outcome.failed(error, self._facts.has_begun, self._facts.number)
        except BaseException as error:  # our own mistake: recorded like any end, with its traceback
            text = f"the controller itself: {type(error).__name__}: {error}"
            self._end(Outcome("FAILED", 1, LaunchError(text)))
            self.recorder.settle(self._config.deadlines.records_end_s)
            raise
        return self._end(outcome)

    def status(self) -> RunStatus:
        """As in status.json."""
        facts, checkpoints = self._facts, self._facts.checkpoints
        statuses = facts.generation.workers.values() if facts.generation is not None else ()
        # As at the last look, which has read the newest heartbeats.
        health = health_words(facts, self._looked_at)
        return RunStatus(
            job=self._config.job.job,
            state=self._state.name,
            generation=facts.number,
            step=facts.step,
            steps=self._config.job.steps,
            recoveries=len(facts.history),
            unsaved="" if checkpoints.failed is None else commit_words(checkpoints.failed),
            phase=self._phases.current or "",
            phase_s=round(self._phases.seconds(time.monotonic()), 3) if self._phases.current else 0,
            waiting=facts.awaited,
            ray=facts.ray,
            suspects=suspect_words(facts),
            reserve=Reserve(facts, self._policy, time.monotonic()).words(),
            quarantine=tuple(str(device) for device in facts.devices.quarantine.all),
            workers=tuple(one.describe(health.get(one.worker.name, "")) for one in statuses),
        )

    def _run(self) -> Outcome:
        self._announce_state()
        self._tell_phase()
        self._act(OpenBackend())
        while True:
            outcome = self._settle()
            if outcome is not None:
                return outcome
            self._observe()

    def _settle(self) -> Outcome | None:
        """Decide and act until there is nothing left to do but wait; the outcome, when the run is
        over."""
        while True:
            now = time.monotonic()
            due = next_actions(self._facts, self._state, self._policy, now)
            if not due:
                self._decisions.note(now, time.monotonic())
                return None
            # All of one decision is done before the next look at the facts: its actions belong
            # together, such as an event and the state that it announces.
            for action in due:
                if isinstance(action, Enter) and isinstance(action.state, Ended):
                    return action.state.outcome
                self._act(action)

    def _observe(self) -> None:
        """Wait for something to decide about, but not beyond the next look at everybody. What has
        come together is taken in together, as far as that does not hold up a decision for long."""
        is_due = False
        while (left_s := self._looks.due_at - time.monotonic()) > 0:
            item = self._inbox.get(0.0 if is_due else left_s)
            if item is None and is_due:
                break
            if item is not None:
                is_due = self._take(item) or is_due
            if is_due and time.monotonic() >= self._decisions.due_at:
                break
        if time.monotonic() >= self._looks.due_at:
            self._look()
        if time.monotonic() >= self._writes.due_at:
            self._write_status()

    def _take(self, item: Item) -> bool:
        """Take in what has come; whether there may be something to decide at once."""
        said = item.read() if isinstance(item, AgentBeat) else item
        if said is None:
            return False
        at = item.heard_at if isinstance(item, AgentBeat) else time.monotonic()
        news = observe(self._facts, said, at)
        is_due = bool(news) or not is_routine(said)
        if is_due:
            self._tell_phase()  # before the first step is told
        self._act_on(news)
        return is_due

    def _look(self) -> None:
        """What depends on time, and on heartbeats, which come by the hundred: at everybody at
        once, the less often the more that costs."""
        now, deadlines = time.monotonic(), self._config.deadlines
        for beat in self._inbox.take_beats():
            self._take(beat)
        self._tell_phase()
        paused_s, self._looked_at = now - self._looked_at, now
        if paused_s > deadlines.hang_s:
            self._act_on(tell_own_pause(self._myself, self._facts.number, paused_s, deadlines))
        self._act_on(observe_time(self._facts, time.monotonic(), deadlines))
        self._looks.note(now, time.monotonic())
        self.recorder.tick()

    def _act_on(self, news: tuple[News, ...]) -> None:
        for action in news:
            self._act(action)

    def _act(self, action: Action) -> None:
        """Do it and take it down. What cannot be done ends what is under way."""
        if isinstance(action, Enter):
            self.set_state(action.state)
            return
        done = action
        try:
            self._actor.act(action)
        except DougongError as error:
            done = GiveUp(error)
        self._facts.note(done, time.monotonic())

    # The state

    def set_state(self, state: State) -> None:
        """The only place that sets the state. A state of another name is an event and in the
        status, which are on their way to storage before anything else happens."""
        is_news = state.name != self._state.name
        self._state = state
        if is_news:
            self._announce_state()
        self._tell_phase()

    def _tell_phase(self) -> None:
        """Which phase of a start or a recovery has ended, and which has begun."""
        generation, number = self._facts.generation, self._facts.number
        is_built = generation is None or generation.is_built
        for event in self._phases.note(self._state, number, is_built, time.monotonic()):
            self.recorder.record(event)

    def _announce_state(self) -> None:
        event = events.StateChanged(generation=self._facts.number, state=self._state.name)
        self.recorder.record(event)
        self._write_status()

    def _write_status(self) -> None:
        begun_at = time.monotonic()
        self.recorder.set_status(self.status())
        self._writes.note(begun_at, time.monotonic())

    # The end

    def _end(self, outcome: Outcome) -> Outcome:
        """End everything that was started, then record how the run ended: storage that does not
        take the record changes no outcome."""
        self._actor.close()
        facts = self._facts
        outcome = replace(outcome, refused=self._is_refused(outcome))
        if facts.generation is not None:
            facts.generation.note_all_ended()  # the agents leave no worker behind
        if isinstance(outcome.error, SupersededError):
            self._state = Ended(outcome)  # the run's record is another's
            self.recorder.keep("the address", self.recorder.run_dir.remove_controller)
            return outcome
        self._take_late_commits()
        again = facts.recomputation.end()
        if again is not None:
            self.recorder.record(again)
        saved = facts.checkpoints.saved_step(self._config.resume_point.step)
        self.recorder.record(_ended(outcome, facts, saved))
        self.set_state(Ended(outcome))
        self.recorder.keep("the address", self.recorder.run_dir.remove_controller)
        return outcome

    def _is_refused(self, outcome: Outcome) -> bool:
        """Whether this is a resume, typed by somebody, that may not go on: nobody and nothing has
        failed in it."""
        point, diagnosis = self._config.resume_point, outcome.diagnosis
        if point == FROM_START or point.died is not None or self._facts.generation is not None:
            return False
        if outcome.error is None or isinstance(outcome.error, (StorageError, PreemptedError)):
            return False
        return diagnosis is None or diagnosis.kind in MISTAKES

    def _take_late_commits(self) -> None:
        """Take down what was committed while everything was being ended: it is on storage. Or that
        it was not."""
        while (item := self._inbox.get(0.0)) is not None:
            if isinstance(item, Committed | CommitFailed | CheckpointsPruned):
                self._act_on(observe(self._facts, item, time.monotonic()))


def _ended(outcome: Outcome, facts: RunFacts, saved: int) -> events.RunEnded:
    """The run's last event but one. `saved`: as there."""
    diagnosis = outcome.diagnosis
    cause = str(outcome.error) if outcome.error is not None else None
    return events.RunEnded(
        kind=_KINDS[outcome.state],
        refused=outcome.refused,
        generation=facts.number,
        step=facts.step,
        saved=saved,
        cause=cause if diagnosis is None else diagnosis.cause,
        worker=None if diagnosis is None else diagnosis.culprit.worker or None,
        node="" if diagnosis is None else diagnosis.culprit.node,
        culprit=None if diagnosis is None else diagnosis.culprit,
        failure=_failure_kind(outcome),
    )


def _failure_kind(outcome: Outcome) -> FailureKind | None:
    if outcome.diagnosis is not None:
        return outcome.diagnosis.kind
    if isinstance(outcome.error, ReproducibilityError):
        return "irreproducible"
    if isinstance(outcome.error, (StorageError, CheckpointError)):
        return "storage"
    return mistake_in([kind.__name__ for kind in type(outcome.error).__mro__])
