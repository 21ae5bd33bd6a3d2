"""Every event in one sentence, the same on the screen and in the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

from dougong.deadlines import DEADLINES
from dougong.records.events import (
    AgentsStarted,
    CheckpointCommitted,
    CheckpointFailed,
    CheckpointRejected,
    CheckpointsLeft,
    CheckpointsSetAside,
    CheckpointStarted,
    DeviceQuarantined,
    DrillFired,
    FailureDiagnosed,
    FingerprintsTaken,
    FirstStep,
    GenerationStarted,
    LinksMeasured,
    ModelInspected,
    MovedWorker,
    NoteTaken,
    Phase,
    PhaseEnded,
    PhaseStarted,
    PlanLaid,
    RayChanged,
    Recovered,
    RecoveryDecided,
    ReserveEvent,
    RunCreated,
    RunEnded,
    RunEvent,
    StateChanged,
    StateRestored,
    StepGivenUp,
    StepSkipped,
    StepsRecomputed,
    StopRequested,
    StorageAnswered,
    StorageTroubled,
    SurvivorLost,
    Suspected,
    SuspicionEnded,
    Waiting,
    WarningRaised,
    WorkerDied,
)
from dougong.records.unsaved import commit_words
from dougong.ui.event_words import (
    again_words,
    given_up_words,
    healed_words,
    link_words,
    measure_words,
    recovered_words,
    reserve_words,
    skipped_words,
    tier_words,
    trouble_words,
)
from dougong.ui.formatting import (
    count,
    duration,
    plural,
    size,
    worker_list,
)

Level = Literal["quiet", "info", "good", "warning", "error"]

_END_LEVELS: Mapping[str, Level] = {"finished": "good", "stopped": "warning", "failed": "error"}


@dataclass(frozen=True)
class Sentence:
    """An event in words. `quiet` ones are for the report's table, not for the screen."""

    level: Level
    text: str


def failure_words(failure: str | None, cause: str | None) -> str:
    """A failure's class and its cause, without the class where the cause says it already."""
    kind = (failure or "").replace("_", " ")
    if not cause:
        return kind
    said = kind.lower() in cause.lower().replace("_", " ")
    return cause if said else f"{kind}: {cause}"


PHASES: Mapping[Phase, str] = {
    "Ray": "Ray, its nodes and the agents",
    "agents": "agents",
    "paths": "paths between the machines",
    "imports": "imports of torch and transformers",
    "data": "look at the model and the data",
    "probes": "probes of the devices' arithmetic",
    "checkpoint": "search for a valid checkpoint",
    "model": "model on its workers",
}
"""What a start or a recovery is at, in words."""


@singledispatch
def describe(event: RunEvent) -> Sentence:
    """One event in words."""
    raise AssertionError(f"an event of kind {event.kind} has no sentence")


@describe.register
def _(event: RunCreated) -> Sentence:
    job = f"job {event.job}"
    return Sentence("info", f"resumed: {job}" if event.generation > 1 else job)


@describe.register
def _(event: StateChanged) -> Sentence:
    if event.state == "STOPPING":
        text = "stopping: the step in progress ends, then a checkpoint is written"
        return Sentence("warning", text)
    return Sentence("quiet", f"state: {event.state.lower()}")


@describe.register
def _(event: AgentsStarted) -> Sentence:
    hosts = sorted({agent.node for agent in event.agents})
    return Sentence("info", f"{plural(len(event.agents), 'agent')} on {', '.join(hosts)}")


@describe.register
def _(event: ModelInspected) -> Sentence:
    parameters = f"{count(event.parameters)} parameters"
    return Sentence("info", f"model {event.family}: {parameters}, {event.experts} experts")


@describe.register
def _(event: PhaseStarted) -> Sentence:
    return Sentence("quiet", f"{PHASES[event.phase]} ...")


@describe.register
def _(event: PhaseEnded) -> Sentence:
    level: Level = "info" if event.seconds >= DEADLINES.phase_quiet_s else "quiet"
    return Sentence(level, f"{PHASES[event.phase]}: {duration(event.seconds)}")


@describe.register
def _(event: Waiting) -> Sentence:
    return Sentence("warning", f"waiting: {event.text}")


@describe.register
def _(event: RayChanged) -> Sentence:
    return Sentence("warning" if event.is_lost else "good", event.text)


@describe.register
def _(event: FingerprintsTaken) -> Sentence:
    workers_by_class: dict[str, list[str]] = {}
    for worker, name in event.classes.items():
        workers_by_class.setdefault(name, []).append(worker)
    groups = [f"{name} on {worker_list(ws)}" for name, ws in workers_by_class.items()]
    if not groups:
        return Sentence("info", "arithmetic: no fingerprint requested")
    return Sentence("info", f"arithmetic: class {', class '.join(groups)}")


@describe.register
def _(event: PlanLaid) -> Sentence:
    workers, lanes = plural(event.workers, "worker"), plural(event.lanes, "lane")
    text = f"plan: {workers}, {lanes}, {plural(event.experts, 'expert')}"
    return Sentence("info", "; ".join([text, *moves(event.moved)]))


def moves(moved: Sequence[MovedWorker]) -> list[str]:
    """Which workers went from which node to which, such as `west/0-3: node1 -> node2`."""
    workers_by_way: dict[tuple[str, str], list[str]] = {}
    for one in moved:
        workers_by_way.setdefault((one.before, one.now), []).append(one.worker)
    ways = workers_by_way.items()
    return [f"{worker_list(workers)}: {before} -> {now}" for (before, now), workers in ways]


@describe.register
def _(event: GenerationStarted) -> Sentence:
    start = f"from {event.resume or 'the beginning'}"
    if event.in_memory:
        # From which step, its workers have yet to agree, and whether they hold all of it.
        start = f"from memory where it is whole, else {start},"
    who = f"with {plural(len(event.workers), 'worker')} [{worker_list(event.workers)}]"
    return Sentence("info", f"generation {event.generation} starts {start} {who}")


@describe.register
def _(event: LinksMeasured) -> Sentence:
    level: Level = "quiet" if event.generation > 1 else "info"
    return Sentence(level, link_words([event]))


@describe.register
def _(event: StateRestored) -> Sentence:
    level: Level = "info" if event.generation > 1 else "quiet"
    where = f" ({tier_words(event.tiers)})" if event.tiers else ""
    return Sentence(level, f"state of step {event.step} is there{where}")


@describe.register
def _(event: SurvivorLost) -> Sentence:
    words = failure_words(event.failure, event.cause)
    who = f"worker {event.who}" if event.worker else str(event.who)
    return Sentence("error", f"{who} ended too before the next generation began: {words}")


@describe.register
def _(event: Recovered) -> Sentence:
    return Sentence("good", recovered_words(event))


@describe.register
def _(event: FirstStep) -> Sentence:
    if event.generation > 1:
        return Sentence("good", f"training again at step {event.step}")
    return Sentence("quiet", f"first step: {event.step}")


@describe.register
def _(event: StepsRecomputed) -> Sentence:
    return Sentence("good" if event.differs_from is None else "warning", again_words(event))


@describe.register
def _(event: StepSkipped) -> Sentence:
    return Sentence("warning", skipped_words(event))


@describe.register
def _(event: DeviceQuarantined) -> Sentence:
    text = f"device {event.device} is not used again in this run"
    return Sentence("error", f"{text}; `fault.quarantine.lift` takes it back")


@describe.register
def _(event: DrillFired) -> Sentence:
    lasts = "" if event.for_s is None else f" for {event.for_s:g} s"
    when = f"as step {event.step} begins"
    if event.after_s is not None:
        when = f"{event.after_s:g} s after the first step"
    elif event.by_command:
        when = f"in step {event.step}, by `dougong drill`"
    return Sentence("warning", f"drill: {event.action} {event.worker}".rstrip() + f"{lasts} {when}")


@describe.register
def _(event: Suspected) -> Sentence:
    seen = "; ".join(event.evidence)
    text = f"suspect: {event.culprit}: {event.why} for {duration(event.since_s)}"
    limit = f"acted on after {event.limit}" if event.limit else "nothing is done about it"
    return Sentence("warning", f"{text} ({seen}); {limit}")


@describe.register
def _(event: SuspicionEnded) -> Sentence:
    return Sentence("info", f"{event.culprit} goes on after {duration(event.seconds)}")


@describe.register
def _(event: WorkerDied) -> Sentence:
    what = _ENDS.get(event.failure, "failed")
    return Sentence(
        "error",
        f"worker {event.who} {what}: {failure_words(event.failure, event.cause)}",
    )


_ENDS = {
    **dict.fromkeys(("crash", "out_of_memory", "preemption"), "died"),
    "hang": "hangs",
    "slow": "is slow",
}
"""How a worker came to its end, by the class of failure. Any other one has found something wrong,
and ended by itself."""


@describe.register
def _(event: FailureDiagnosed) -> Sentence:
    text = f"diagnosis: {event.who}: {failure_words(event.failure, event.cause)}"
    if event.evidence:
        text += f" ({'; '.join(event.evidence)})"
    return Sentence("error", text)


@describe.register
def _(event: RecoveryDecided) -> Sentence:
    text = f"decision: {measure_words(event.action)} ({event.reason})"
    return Sentence("info" if event.action == "grow_back" else "warning", text)


@describe.register
def _(event: ReserveEvent) -> Sentence:
    return Sentence(*reserve_words(event))


@describe.register
def _(event: CheckpointStarted) -> Sentence:
    return Sentence("quiet", f"checkpoint of step {event.step} begins")


@describe.register
def _(event: CheckpointCommitted) -> Sentence:
    facts = f"{size(event.num_bytes)}, {duration(event.seconds)}"
    text = f"checkpoint of step {event.step} committed ({facts})"
    if event.after_failures:
        text += f", after {event.after_failures} that failed: the run is saved again"
    return Sentence("good", text)


@describe.register
def _(event: CheckpointFailed) -> Sentence:
    text = f"checkpoint of step {event.step} not committed, so training on is not saved"
    return Sentence("error", f"{text}: {commit_words(event)}")


@describe.register
def _(event: CheckpointRejected) -> Sentence:
    aside = f"; set aside as {event.aside}, not deleted" if event.aside else ""
    return Sentence("error", f"checkpoint {event.directory} rejected: {event.reason}{aside}")


@describe.register
def _(event: CheckpointsLeft) -> Sentence:
    left = "; ".join(f"{name}: {reason}" for name, reason in event.reasons.items())
    return Sentence("warning", f"old checkpoints are not deleted: {left}")


@describe.register
def _(event: StorageTroubled) -> Sentence:
    return Sentence("warning", f"{trouble_words(event)}; training goes on")


@describe.register
def _(event: StorageAnswered) -> Sentence:
    return Sentence("warning" if event.dropped else "good", healed_words(event))


@describe.register
def _(event: CheckpointsSetAside) -> Sentence:
    start = f"goes on from step {event.step}" if event.step else "begins anew"
    what = plural(len(event.names), "checkpoint")
    names = ", ".join(event.names)
    return Sentence(
        "warning", f"the run {start}: {what} set aside in {event.folder} ({names}), not deleted"
    )


@describe.register
def _(event: NoteTaken) -> Sentence:
    return Sentence("info", event.text)


@describe.register
def _(event: WarningRaised) -> Sentence:
    who = f"[{worker_list(event.workers)}] " if event.workers else ""
    return Sentence("warning", who + event.text)


@describe.register
def _(event: StopRequested) -> Sentence:
    if event.now:
        return Sentence("warning", f"{event.by}: the run ends at once, no checkpoint is written")
    more = "`dougong stop --now`" if event.by == "dougong stop" else "a second request"
    return Sentence("warning", f"stop requested by {event.by}; {more} ends the run at once")


@describe.register
def _(event: StepGivenUp) -> Sentence:
    return Sentence("warning", given_up_words(event))


@describe.register
def _(event: RunEnded) -> Sentence:
    text = f"{event.kind} at step {event.step}{_unsaved_words(event)}"
    if event.kind == "failed":
        who = f"{event.who}: " if event.who is not None else ""
        text += f": {who}{failure_words(event.failure, event.cause)}"
    return Sentence(_END_LEVELS[event.kind], text)


def _unsaved_words(event: RunEnded) -> str:
    """What a resume computes again, where that is not nothing."""
    if not event.num_unsaved:
        return ""
    saved = f"the newest checkpoint is of step {event.saved}" if event.saved else "no checkpoint"
    return f" ({saved}: a resume computes {plural(event.num_unsaved, 'step')} again)"
