"""The controller: the one state machine of a run, in one thread. Observes, has decisions made,
acts.

    STARTING -> RUNNING -> (RECOVERING -> RUNNING)* -> FINISHED | FAILED
                   \\-> STOPPING -> STOPPED | FINISHED | FAILED

No wait is without a deadline, but for the training itself.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dougong.checkpoint.directories import step_of
from dougong.control.messages import ForkWorkers, KillWorkers
from dougong.control.tasks import TrainTask
from dougong.errors import DougongError, LaunchError, WorkerError
from dougong.fault.diagnosis import Diagnosis, diagnose, first_failure
from dougong.fault.drill import pending
from dougong.fault.policy import decide
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import Backend
from dougong.launcher.controller.agents import AgentHandle, Agents
from dougong.launcher.controller.checkpoints import CheckpointManager, FoundCheckpoint
from dougong.launcher.controller.config import ControllerConfig, Outcome
from dougong.launcher.controller.generation import Generation
from dougong.launcher.controller.inbox import Background, Inbox
from dougong.launcher.controller.observer import Observer, Stopped, as_ours
from dougong.launcher.controller.preflight import Preflight
from dougong.launcher.controller.rendezvous import RendezvousStore, load_torch
from dougong.parallel.plan import Plan
from dougong.planner.placement import AgentSpec, check_hellos, lay_out, make_seats
from dougong.planner.plan_job import plan_job
from dougong.ui.recorder import Recorder

OPEN_S = 120.0
JOIN_S = 120.0
READY_S = 300.0
FIND_S = 3600.0
KILL_S = 10.0
COMMIT_S = 1800.0


class Controller:
    """One run. `run` may be called once; signals and everything else reach it through the inbox."""

    def __init__(
        self, setting: ControllerConfig, inbox: Inbox, backend: Backend, scribe: Recorder
    ) -> None:
        self._setting = setting
        self._job = setting.job
        self._backend = backend
        self._scribe = scribe
        self._run_dir = scribe.run_dir
        keeper = CheckpointManager(
            self._run_dir.checkpoints, setting.job, Background("dougong-commit", inbox)
        )
        self._see = Observer(inbox, scribe, keeper, setting.beginning.fired)
        self._scout = Preflight(setting, self._see)
        self._see.number = setting.beginning.generation - 1
        self._see.step = setting.beginning.step
        self._agents = Background("dougong-agents", inbox)
        self._torch = Background("dougong-store", inbox)
        self._history: list[Diagnosis] = []
        self._generations_of: list[int] = []
        self._plan: Plan | None = None
        self._state = "STARTING"

    def run(self) -> Outcome:
        """Train to the end of the job, whatever happens on the way. Leaves no process behind."""
        try:
            outcome = self._run()
        except Stopped:
            outcome = self._stopped()
        except DougongError as error:
            outcome = Outcome("FAILED", error.exit_status, error)
        except (
            BaseException
        ) as error:  # our own mistake: recorded like any end, and told with its traceback
            self._end_agents()
            self._record(
                Outcome(
                    "FAILED",
                    1,
                    LaunchError(f"the controller itself: {type(error).__name__}: {error}"),
                )
            )
            raise
        self._end_agents()
        self._record(outcome)
        return outcome

    def status(self) -> dict[str, Any]:
        """As in status.json."""
        see = self._see
        return {
            "job": self._job.job,
            "state": self._state,
            "generation": see.number,
            "step": see.step,
            "steps": self._job.steps,
            "recoveries": len(self._history),
            "workers": see.state_of_workers(),
        }

    def _run(self) -> Outcome:
        self._enter("STARTING")
        self._see.watched = False
        self._start_agents()
        self._scout.inspect()
        self._scout.fingerprint(list(self._crew.members.values()))
        self._lay_plan()
        self._see.watched = True
        while True:
            self._begin_generation(self._find())
            self._watch()
            if self._gen.all_done:
                return self._conclude()
            failed = self._recover()
            if failed is not None:
                return failed

    def _enter(self, state: str) -> None:
        self._state = state
        self._scribe.state(state, self._see.number)

    # Starting

    def _start_agents(self) -> None:
        see, backend = self._see, self._backend
        self._torch.call("torch", load_torch)
        host = see.call(self._agents, "open", backend.open, OPEN_S)
        self._crew = see.crew = Agents(see.inbox, self._setting.token, host)
        self._run_dir.write_controller(self._crew.address())
        self._torch.call("store", lambda: RendezvousStore(host))
        kinds = sorted({island.accelerator for island in self._job.islands} - {"cpu"})
        nodes = see.call(self._agents, "nodes", lambda: backend.nodes(kinds), OPEN_S)
        specs = lay_out(self._job.islands, nodes, backend.shared_devices)
        self._crew.expect(specs)
        see.call(self._agents, "start", lambda: backend.start(specs, self._settings_of), OPEN_S)
        self._await_agents(list(self._crew.members.values()))
        self._store: RendezvousStore = see.result("store", READY_S)

    def _settings_of(self, spec: AgentSpec) -> AgentSettings:
        return AgentSettings(
            name=spec.name,
            island=spec.island,
            accelerator=spec.accelerator,
            threads=spec.threads,
            deterministic=self._job.determinism != "off",
            controller=self._crew.server.address,
            token=self._setting.token,
            run_dir=str(self._run_dir.path),
            preload=self._setting.entries.preload,
            cwd=self._setting.cwd,
        )

    def _await_agents(self, members: Sequence[AgentHandle]) -> None:
        """Until they have joined, agree in their software, and have loaded what workers need."""
        see, crew = self._see, self._crew
        self._pump_agents(members, "hello", JOIN_S)
        check_hellos(crew.hellos(), str(self._run_dir.path))
        agents = [
            {**hello, "address": crew.members[n].address} for n, hello in crew.hellos().items()
        ]
        self._scribe.event("agents_started", see.number, agents=agents)
        self._pump_agents(members, "ready", READY_S)

    def _pump_agents(self, members: Sequence[AgentHandle], fact: str, timeout_s: float) -> None:
        def late() -> list[str]:
            return [m.spec.name for m in members if not getattr(m, fact) and m.lost is None]

        try:
            self._see.pump(lambda: not late(), timeout_s, f"agents {', '.join(late())} ({fact})")
        except LaunchError as error:
            raise LaunchError(self._with_reason(str(error), late())) from error
        lost = [m.lost for m in members if m.lost is not None]
        if lost:
            raise LaunchError(str(lost[0]))

    def _with_reason(self, text: str, names: Sequence[str]) -> str:
        """The backend may know why an agent is not there."""
        reasons = {
            name: self._backend.why_ended(name)
            for name in self._crew.members
            if name in names or not names
        }
        told = [f"agent {name}: {reason}" for name, reason in reasons.items() if reason]
        return "\n".join([text, *told])

    def _lay_plan(self) -> None:
        specs = [member.spec for member in self._crew.members.values()]
        assert self._see.inventory is not None
        plan = plan_job(self._job, self._see.inventory, make_seats(specs, self._crew.hellos()))
        if plan != self._plan:
            self._plan = plan
            self._run_dir.write_plan(plan.to_json())
            self._scribe.view.plan(plan)
            facts = {
                "workers": len(plan.workers),
                "lanes": plan.num_lanes,
                "experts": plan.num_experts,
            }
            environment = {
                hello["island"]: hello["environment"] for hello in self._crew.hellos().values()
            }
            self._scribe.event("planned", self._see.number, **facts, environment=environment)

    # Running

    @property
    def _gen(self) -> Generation:
        assert self._see.generation is not None, "no generation has begun"
        return self._see.generation

    def _find(self) -> FoundCheckpoint:
        self._see.keeper.find()
        found: FoundCheckpoint = self._see.result("find", FIND_S)
        for name, reason in found.rejected:
            self._scribe.event(
                "checkpoint_rejected", self._see.number, directory=name, reason=reason
            )
        for text in found.warnings:
            self._scribe.event("warning", self._see.number, text=text, workers=[])
        self._see.keeper.parent = found.directory.name if found.directory else None
        return found

    def _begin_generation(self, found: FoundCheckpoint) -> None:
        see, plan = self._see, self._plan
        assert plan is not None
        see.number += 1
        start = (step_of(found.directory) or 0) if found.directory else 0
        see.step = start
        see.generation = Generation(see.number, plan, start)
        resume = found.directory.name if found.directory else None
        workers = [worker.name for worker in plan.workers]
        self._scribe.event(
            "generation_started", see.number, workers=workers, resume=resume, step=start
        )
        request = self._request(plan, found.directory)
        for member in self._crew.members.values():
            self._crew.tell(member, ForkWorkers(see.number, tuple(member.spec.workers), request))
        self._enter("RUNNING")
        see.stoppable = True

    def _request(self, plan: Plan, resume: Path | None) -> TrainTask:
        """What every worker of a generation is given."""
        return TrainTask(
            entry=self._setting.entries.train,
            job=self._job,
            plan=plan,
            run_dir=str(self._run_dir.path),
            store=self._store.address,
            console=plan.workers[0].name,
            resume=str(resume) if resume else None,
            drills=tuple(pending(self._job.drill, self._see.fired)),
        )

    def _watch(self) -> None:
        """Until all workers are done, or it is known who failed first."""
        gen = self._gen
        self._see.pump(
            lambda: gen.all_done or gen.is_settled(time.monotonic()), math.inf, "training"
        )

    def _conclude(self) -> Outcome:
        """All workers are done: the run ends when their last checkpoint is committed."""
        see = self._see
        see.stoppable = False
        see.pump(lambda: not see.keeper.busy, COMMIT_S, "committing the last checkpoint")
        if see.keeper.waiting_for:
            steps = ", ".join(map(str, see.keeper.waiting_for))
            raise LaunchError(
                f"the checkpoint of step {steps} is not whole: not every worker sent its part; see the logs"
            )
        if see.commit_error is not None:
            raise as_ours(see.commit_error)
        if see.stop is not None and see.step < self._job.steps:
            return self._stopped()
        return Outcome("FINISHED", 0)

    def _stopped(self) -> Outcome:
        assert self._see.stop is not None
        return Outcome("STOPPED", self._see.stop.status)

    # Recovering

    def _recover(self) -> Outcome | None:
        """End the generation, find who was first and why, do what the policy says. An Outcome when
        that is the end."""
        see, gen = self._see, self._gen
        stopping = see.stop is not None
        see.stoppable = False
        fact, echoes = first_failure(gen.facts)
        diagnosis = diagnose(fact)
        self._scribe.event("worker_died", gen.number, **_told(diagnosis))
        self._crew.tell_all(KillWorkers(gen.number))
        self._enter("RECOVERING")
        self._tell_diagnosis(diagnosis, [f.worker for f in echoes])
        decision = decide(diagnosis, self._job.fault, self._history)
        self._history.append(diagnosis)
        self._generations_of.append(gen.number)
        self._scribe.event("decision", gen.number, action=decision.action, reason=decision.reason)
        self._await_exits()
        if stopping:
            return self._failed("the worker failed while the run was being stopped")
        if decision.action == "fail":
            return self._failed(decision.reason)
        return self._restart_agents(diagnosis)

    def _tell_diagnosis(self, diagnosis: Diagnosis, echoes: Sequence[str]) -> None:
        fields = {**_told(diagnosis), "detail": diagnosis.detail, "followed_by": list(echoes)}
        self._scribe.event("diagnosis", self._gen.number, **fields)

    def _await_exits(self) -> None:
        """SIGKILL has been sent; a process that does not end even so is left behind (its generation
        fences it)."""
        gen = self._gen
        try:
            self._see.pump(lambda: gen.all_exited, KILL_S, "ending the old generation's workers")
        except LaunchError as error:
            left = [m.worker.name for m in gen.mates.values() if not m.exited]
            self._scribe.event("warning", gen.number, text=str(error), workers=left)
        self._see.keeper.forget()

    def _restart_agents(self, diagnosis: Diagnosis) -> Outcome | None:
        see, crew = self._see, self._crew
        lost = [member.spec for member in crew.members.values() if member.lost is not None]
        if not lost:
            return None
        try:
            crew.expect(lost)
            for spec in lost:
                again = functools.partial(self._backend.restart, spec, self._settings_of)
                see.call(self._agents, "restart", again, OPEN_S)
            joined = [crew.members[spec.name] for spec in lost]
            self._await_agents(joined)
            self._scout.fingerprint(joined)
        except DougongError as error:
            return self._failed(f"its agent cannot be started again: {error}")
        self._lay_plan()
        return None

    def _failed(self, reason: str) -> Outcome:
        """The run's end, told with its first failure."""
        first, generation = self._history[0], self._generations_of[0]
        last = self._history[-1]
        more = (
            ""
            if len(self._history) == 1
            else f" (first of {len(self._history)} failures; the last: {last})"
        )
        error = WorkerError(f"{first}{more}; {reason}")
        return Outcome("FAILED", 1, error, first, generation)

    # Ending

    def _end_agents(self) -> None:
        self._see.watched = True
        self._see.stoppable = False
        if self._see.crew is not None:
            self._see.crew.close()
        self._backend.close()
        self._torch.settle(KILL_S)

    def _record(self, outcome: Outcome) -> None:
        self._state = outcome.state
        kind, diagnosis = outcome.state.lower(), outcome.diagnosis
        fields: dict[str, Any] = {"step": self._see.step}
        if outcome.error is not None:
            fields["cause"] = diagnosis.cause if diagnosis else str(outcome.error)
        if diagnosis is not None:
            fields |= {"worker": diagnosis.worker, "class": diagnosis.kind}
        for mate in self._see.generation.mates.values() if self._see.generation else ():
            mate.exited = True
        self._scribe.event(kind, self._see.number, **fields)
        self._scribe.state(outcome.state, self._see.number)
        self._run_dir.remove_controller()


def _told(diagnosis: Diagnosis) -> dict[str, Any]:
    return {"worker": diagnosis.worker, "class": diagnosis.kind, "cause": diagnosis.cause}
