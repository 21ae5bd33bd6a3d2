"""Observe: what an item of the inbox, or the passing of time, changes in what is known, and what of
it is news: for the record, for the screen, for a peer that waits for an answer."""

from __future__ import annotations

from dougong.control.messages import (
    Acknowledged,
    AgentFailed,
    AgentReady,
    FromWorker,
    Heartbeat,
    Message,
    OrderDrill,
    OutputLine,
    Ping,
    RequestRefused,
    StopRun,
    WorkerExited,
    WorkerForked,
)
from dougong.control.path_messages import CONTROLLER, PathsOpen, PathsTried
from dougong.control.processes import signal_name
from dougong.control.worker_messages import (
    DrillAnnounced,
    PartDurable,
    StepDone,
    UpdateSkipped,
    WorkerDone,
    WorkerMessage,
    WorkerRaised,
    WorkerWarning,
)
from dougong.deadlines import Deadlines
from dougong.errors import DougongError, LaunchError, StorageError
from dougong.fault.liveness import silence_reason
from dougong.launcher.controller.actions import (
    AdoptChannel,
    CloseChannel,
    News,
    Record,
    RecordStep,
    ShowException,
    ShowLine,
)
from dougong.launcher.controller.agents import AgentHandle
from dougong.launcher.controller.drills import observe_drill
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.generation import Generation
from dougong.launcher.controller.inbound.items import (
    AgentJoined,
    AgentLeft,
    AgentMessage,
    AgentsEnded,
    AgentsPlaced,
    Awaited,
    BackendOpened,
    ClientRequest,
    CommitFailed,
    Committed,
    DrillOrder,
    FoundCheckpoint,
    Item,
    NodesListed,
    OwnPathsTried,
    PeerRefused,
    SignalReceived,
    StoreOpened,
    TaskFailed,
)
from dougong.launcher.controller.states import Stop
from dougong.records import events
from dougong.records.files import ROOM

REFUSALS_TOLD = 5
"""So many are told one by one."""
EXIT_INTERRUPTED = 130
_SIGNALLED = 128


def observe(facts: RunFacts, item: Item, now: float) -> tuple[News, ...]:
    """Change the facts by one item. `now`: monotonic seconds."""
    match item:
        case AgentJoined():
            return _observe_join(facts, item)
        case AgentMessage() | AgentLeft():
            return _observe_agent(facts, item, now)
        case ClientRequest():
            return _observe_client(facts, item)
        case SignalReceived(number):
            return _observe_signal(facts, number)
        case PeerRefused(text):
            return _observe_refusal(facts, text)
        case Committed():
            return _observe_commit(facts, item)
        case CommitFailed():
            return _observe_failed_commit(facts, item)
        case Awaited(text):
            return (Record(events.Waiting(generation=facts.number, text=text)),)
        case _:
            _observe_answer(facts, item, now)
            return ()


def observe_time(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[News, ...]:
    """Change the facts by the time that has passed: agents that are silent, workers whose progress
    stands still."""
    for handle in facts.agents.silent(now, deadlines):
        facts.lose(handle, silence_reason(deadlines), now)
    facts.note_unexplained(now, deadlines)
    if facts.generation is None:
        return ()
    news = []
    for status in facts.generation.note_time(now, deadlines):
        text = facts.generation.stall_text(status, deadlines)
        news.append(warning(facts, text, status.worker.name))
    return tuple(news)


def warning(facts: RunFacts, text: str, *workers: str) -> Record:
    """A warning as an event of the newest generation, with the nodes of its workers where there are
    several."""
    text += facts.agents.on_nodes(workers)
    return Record(events.WarningRaised(generation=facts.number, text=text, workers=workers))


def _observe_refusal(facts: RunFacts, text: str) -> tuple[News, ...]:
    """Whoever scans the network may knock at our port for ever: the first few are told, then at
    each power of ten how many there were."""
    facts.num_refused += 1
    count = facts.num_refused
    if count <= REFUSALS_TOLD:
        return (warning(facts, text),)
    if str(count).strip("0") == "1":
        return (warning(facts, f"{count:,} refused so far at the controller's port; {text}"),)
    return ()


# Background threads


def _observe_answer(facts: RunFacts, item: Item, now: float) -> None:
    match item:
        case TaskFailed(error):
            facts.error = as_ours(error)
        case BackendOpened(host):
            facts.host = host
        case NodesListed(nodes):
            facts.nodes, facts.nodes_at = nodes, now
        case StoreOpened():
            facts.store = item
        case OwnPathsTried(number, end, results):
            facts.paths.own_end = end
            facts.paths.note(number, CONTROLLER, results)
        case AgentsPlaced():
            facts.are_placed, facts.awaited = True, ""
        case AgentsEnded(reasons):
            facts.note_ends(reasons, now)
        case FoundCheckpoint():
            facts.checkpoints.note_found(item)


def as_ours(error: BaseException) -> DougongError:
    """An error of ours as it is; one of a file as a StorageError that names it; any other as a
    LaunchError with its words."""
    if isinstance(error, DougongError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return StorageError(f"{error.filename}: {error.strerror}; {ROOM}")
    return LaunchError(f"{type(error).__name__}: {error}")


def _observe_failed_commit(facts: RunFacts, failed: CommitFailed) -> tuple[News, ...]:
    """Each one is told anew: whoever looks must not take what is trained for saved."""
    error = as_ours(failed.error)
    return (Record(facts.checkpoints.note_failed(failed.step, error, facts.number)),)


def _observe_commit(facts: RunFacts, committed: Committed) -> tuple[News, ...]:
    news = [Record(facts.checkpoints.note_committed(committed, facts.number))]
    for name in committed.invalid:
        news.append(rejected(facts, name, "not as it was written"))
    return tuple(news)


def rejected(facts: RunFacts, directory: str, reason: str) -> Record:
    """A damaged checkpoint as an event."""
    event = events.CheckpointRejected(generation=facts.number, directory=directory, reason=reason)
    return Record(event)


# Requests


def _observe_signal(facts: RunFacts, number: int) -> tuple[News, ...]:
    name = signal_name(number)
    return _observe_stop(facts, Stop(name, _SIGNALLED + number))


def _observe_stop(facts: RunFacts, stop: Stop) -> tuple[News, ...]:
    """The first request is an event, and the one that makes it urgent; others change nothing."""
    was_urgent = facts.stop is not None and facts.stop.now
    is_first = facts.note_stop(stop)
    is_urgent = facts.stop is not None and facts.stop.now
    if was_urgent or not (is_first or is_urgent):
        return ()
    event = events.StopRequested(generation=facts.number, by=stop.by, now=is_urgent)
    return (Record(event),)


def _observe_client(facts: RunFacts, request: ClientRequest) -> tuple[News, ...]:
    match request.message:
        case StopRun(now):
            # The answer goes out first: the run may be over before the client has read it.
            answered = CloseChannel(request.channel, Acknowledged())
            # Who asks again, after a deadline or from another terminal, wants the same as before;
            # it takes `--now` to want more. A second Ctrl-C is another thing: it means it.
            if facts.stop is not None and not now:
                return (answered,)
            return (answered, *_observe_stop(facts, Stop("dougong stop", EXIT_INTERRUPTED, now)))
        case OrderDrill() as order:
            facts.orders.append(DrillOrder(request.channel, order))
            return ()
        case Ping():
            return (CloseChannel(request.channel, Acknowledged()),)
        case other:
            text = f"unknown request: a message of kind {other.kind!r}"
            return (CloseChannel(request.channel, RequestRefused(text)),)


# Agents


def _observe_join(facts: RunFacts, item: AgentJoined) -> tuple[News, ...]:
    agent = item.facts.agent
    if facts.agents.join(item.facts, item.channel, item.clock_ahead_s):
        return (AdoptChannel(agent, item.channel),)
    return (CloseChannel(item.channel), warning(facts, f"agent {agent!r} is not expected"))


def _observe_agent(facts: RunFacts, item: AgentMessage | AgentLeft, now: float) -> tuple[News, ...]:
    if not facts.agents.is_current(item.agent, item.channel):
        # The agent has begun another life since, or is counted as lost. What its old connection
        # still holds must not reach the workers of the new one.
        return ()
    handle = facts.agents[item.agent]
    if isinstance(item, AgentLeft):
        facts.note_left(handle, item.reason, now)
        return ()
    return _observe_message(facts, handle, item.message, now)


def _observe_message(
    facts: RunFacts, handle: AgentHandle, message: Message, now: float
) -> tuple[News, ...]:
    match message:
        case PathsOpen(end):
            handle.path_end = end
        case PathsTried(number, results):
            facts.paths.note(number, handle.spec.name, results)
        case AgentReady():
            handle.is_ready = True
        case AgentFailed(text):
            facts.lose(handle, text, now)
        case Heartbeat() | WorkerForked() | WorkerExited():
            _observe_process(facts, message, now)
        case OutputLine():
            return _observe_line(facts, message)
        case FromWorker():
            return _observe_worker(facts, message, now)
        case _:
            return (warning(facts, f"agent {handle.spec.name}: {_unknown(message)}"),)
    return ()


def _observe_line(facts: RunFacts, line: OutputLine) -> tuple[News, ...]:
    """Show a line, unless it only follows from a failure that is known already: it stays in its
    log."""
    if facts.generation is not None:
        generation = facts.generation_of(line.generation)
        if generation is None or not generation.is_heard(line.worker):
            return ()
    return (ShowLine(line.worker, line.text),)


def _unknown(message: Message) -> str:
    return f"unknown message kind {message.kind!r} at this place; it is ignored"


def _observe_process(
    facts: RunFacts, message: Heartbeat | WorkerForked | WorkerExited, now: float
) -> None:
    generation = facts.generation_of(message.generation)
    match message:
        case WorkerExited(0, worker, task):
            # A child's end after its answer is no second answer: the first one counts.
            facts.answers.setdefault((task, worker), message)
        case _ if generation is None:
            return
        case Heartbeat():
            generation.note_beat(message, now)
        case _ if message.worker not in generation.workers:
            return
        case WorkerForked(_, worker, pid):
            generation.note_forked(worker, pid)
        case WorkerExited():
            generation.note_exit(message, now)


# Workers


def _observe_step(facts: RunFacts, generation: Generation, done: StepDone) -> tuple[News, ...]:
    facts.step = done.step
    recorded = RecordStep({"generation": generation.number, **done.row})
    news: list[News] = [recorded, *_observe_routers(facts, done)]
    if not generation.has_stepped:
        generation.has_stepped = True
        # The event comes first: "training again at step 61", then that step's own line.
        news.insert(0, Record(events.FirstStep(generation=generation.number, step=facts.step)))
    recomputed = facts.recomputation.take(generation.number, {**done.row, "step": done.step})
    if recomputed is not None:
        news.append(Record(recomputed))
    return tuple(news)


def _observe_routers(facts: RunFacts, done: StepDone) -> tuple[Record, ...]:
    """A layer that sends everything to few experts, or has stopped to."""
    if facts.model is None:
        return ()
    news = []
    for found in facts.routers.note(done.row, facts.model.inventory):
        kind = events.WarningRaised if found.is_bad else events.NoteTaken
        news.append(Record(kind(generation=facts.number, text=found.text)))
    return tuple(news)


def _step_skipped(generation: Generation, skipped: UpdateSkipped) -> Record:
    event = events.StepSkipped(
        generation=generation.number,
        step=skipped.step,
        loss=skipped.loss,
        grad_norm=skipped.grad_norm,
        where=skipped.where,
        in_a_row=skipped.in_a_row,
    )
    return Record(event)


def _observe_worker(facts: RunFacts, message: FromWorker, now: float) -> tuple[News, ...]:
    if message.generation == 0:
        answer = message.message
        facts.answers.setdefault((message.task, message.worker), answer)
        if isinstance(answer, WorkerRaised):
            return (ShowException(message.worker, answer),)
        return ()
    generation = facts.generation_of(message.generation)
    if generation is None or message.worker not in generation.workers:
        return ()
    worker = message.worker
    match message.message:
        case WorkerRaised() as error:
            generation.note_raised(worker, error, now)
            return (ShowException(worker, error),)
        case WorkerDone():
            generation.note_done(worker, now)
            return ()
        case other:
            return _observe_training(facts, generation, worker, other)


def _observe_training(
    facts: RunFacts, generation: Generation, worker: str, message: WorkerMessage
) -> tuple[News, ...]:
    match message:
        case StepDone():
            return _observe_step(facts, generation, message)
        case UpdateSkipped():
            return (_step_skipped(generation, message),)
        case PartDurable(step):
            is_first = facts.checkpoints.note_part(worker, message)
            started = events.CheckpointStarted(generation=generation.number, step=step)
            return (Record(started),) if is_first else ()
        case DrillAnnounced():
            return observe_drill(facts, generation, worker, message)
        case WorkerWarning(text):
            return (warning(facts, text, worker),)
        case _:
            return (warning(facts, f"worker {worker}: {_unknown(message)}"),)
