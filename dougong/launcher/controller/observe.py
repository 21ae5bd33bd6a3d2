"""Observe: what an item of the inbox, or the passing of time, changes in what is known, and what of
it is news: for the record, for the screen, for a peer that waits for an answer."""

from __future__ import annotations

from collections.abc import Mapping

from dougong.control.messages import (
    Acknowledged,
    AgentFailed,
    AgentReady,
    DevicesRead,
    ForkServerReplaced,
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
from dougong.control.progress import ForkServerSigns
from dougong.control.worker_messages import StorageTold
from dougong.deadlines import Deadlines
from dougong.errors import DougongError, LaunchError, StorageError
from dougong.fault.culprit import Culprit
from dougong.fault.observation import AgentLost
from dougong.fault.suspicion import fork_server_facts
from dougong.launcher.backends.base import RayNews
from dougong.launcher.controller.actions import (
    AdoptChannel,
    CloseChannel,
    News,
    Record,
    ShowLine,
)
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.inbound.items import (
    AgentJoined,
    AgentLeft,
    AgentMessage,
    AgentsEnded,
    AgentsPlaced,
    Awaited,
    BackendOpened,
    CheckpointsPruned,
    ClientRequest,
    CommitFailed,
    Committed,
    DrillOrder,
    FoundCheckpoint,
    Heard,
    Item,
    MachineTried,
    NodesListed,
    OwnPathsTried,
    PeerRefused,
    ReserveBegun,
    ReserveFailed,
    ReserveSeen,
    SignalReceived,
    SuccessorFound,
    TaskFailed,
)
from dougong.launcher.controller.looks import rejected, unknown, warning
from dougong.launcher.controller.observe_health import (
    observe_agents,
    observe_devices,
    observe_health,
)
from dougong.launcher.controller.observe_workers import observe_process, observe_worker
from dougong.launcher.controller.states import Stop
from dougong.records import events
from dougong.records.event.storage import storage_event
from dougong.records.files import ROOM

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
        case SuccessorFound(who):
            facts.successor = who
            return ()
        case PeerRefused(text):
            return (warning(facts, text),)
        case Committed():
            return _observe_commit(facts, item, now)
        case CheckpointsPruned():
            return _observe_pruned(facts, item)
        case CommitFailed():
            return _observe_failed_commit(facts, item, now)
        case Awaited(text):
            return (Record(events.Waiting(generation=facts.number, text=text)),)
        case RayNews():
            return _observe_ray(facts, item)
        case _:
            _observe_answer(facts, item, now)
            return ()


def observe_time(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[News, ...]:
    """Change the facts by the time that has passed: agents that are silent, workers whose progress
    stands still."""
    tries = observe_agents(facts, now, deadlines)
    facts.note_unexplained(now, deadlines)
    return (*tries, *_observe_stalls(facts, now, deadlines), *observe_health(facts, now, deadlines))


def _observe_stalls(facts: RunFacts, now: float, deadlines: Deadlines) -> tuple[Record, ...]:
    if facts.generation is None:
        return ()
    news = []
    for status in facts.generation.note_time(now, deadlines):
        text = facts.generation.stall_text(status, deadlines)
        news.append(warning(facts, text, status.worker.name))
    return tuple(news)


# Background threads


def _observe_ray(facts: RunFacts, news: RayNews) -> tuple[News, ...]:
    """What becomes of Ray changes nothing for agents that live."""
    if news.is_warning:
        return (warning(facts, news.text),)
    text = news.text
    if news.agent:
        handle = facts.agents.handles.get(news.agent)
        if handle is None or not handle.has_joined or handle.lost is not None:
            return ()  # that the agent itself has ended is told as such
    else:
        facts.ray = text if news.is_lost else ""
    if news.is_lost and facts.generation is not None:
        text += "; training goes on, and needs Ray only to find another node"
    event = events.RayChanged(
        generation=facts.number, part=news.part, is_lost=news.is_lost, text=text
    )
    return (Record(event),)


def _observe_answer(facts: RunFacts, item: Item, now: float) -> None:
    match item:
        case TaskFailed(error):
            facts.error = as_ours(error)
        case BackendOpened(host):
            facts.host = host
        case NodesListed(nodes):
            facts.nodes, facts.nodes_at = nodes, now
        case OwnPathsTried(number, end, results):
            facts.paths.own_end = end
            facts.paths.note(number, CONTROLLER, results)
        case AgentsPlaced():
            facts.are_placed, facts.awaited = True, ""
        case AgentsEnded(reasons):
            _note_ends(facts, reasons, now)
        case ReserveSeen() | ReserveBegun() | ReserveFailed():
            _observe_reserve(facts, item, now)
        case FoundCheckpoint():
            facts.checkpoints.note_found(item, now)
            facts.awaited = facts.awaited if item.is_away else ""
        case Heard(hearing):
            facts.agents.hearing = hearing
        case MachineTried(agent, answers):
            facts.agents.note_tried(agent, answers)


def _observe_reserve(
    facts: RunFacts, item: ReserveSeen | ReserveBegun | ReserveFailed, now: float
) -> None:
    """Agents that stand by, or could: nothing here is the end of anything."""
    reserve = facts.reserve
    reserve.is_busy, reserve.trouble = False, ""
    match item:
        case ReserveSeen(nodes, ended, returned):
            reserve.nodes = nodes
            reserve.gone.difference_update(returned)
            facts.note_fallen(ended, now)
        case ReserveBegun(agents, reason) if reason:
            facts.note_fallen(dict.fromkeys(agents, reason), now)
        case ReserveFailed(reason):
            reserve.trouble = reason


def _note_ends(facts: RunFacts, reasons: Mapping[str, str], now: float) -> None:
    """What the backend knows of agents that have ended. Of one that has joined, its connection
    tells the end, and this why; of the others only this does."""
    facts.agents.is_asked = False
    if not facts.are_placed:
        return  # it was asked before a new life began: these are ends of the old one
    for name, reason in reasons.items():
        handle = facts.agents.handles.get(name)
        if handle is None or handle.lost is not None:
            continue
        if handle.channel is None or handle.is_unexplained:
            facts.lose(handle, reason, now)


def as_ours(error: BaseException) -> DougongError:
    """An error of ours as it is; one of a file as a StorageError that names it; any other as a
    LaunchError with its words."""
    if isinstance(error, DougongError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return StorageError(f"{error.filename}: {error.strerror}; {ROOM}")
    return LaunchError(f"{type(error).__name__}: {error}")


def _observe_failed_commit(facts: RunFacts, failed: CommitFailed, now: float) -> tuple[News, ...]:
    """Each one is told anew: whoever looks must not take what is trained for saved."""
    error = as_ours(failed.error)
    event = facts.checkpoints.note_failed(failed.step, error, facts.number, now)
    return () if event is None else (Record(event),)


def _observe_pruned(facts: RunFacts, pruned: CheckpointsPruned) -> tuple[News, ...]:
    news = [rejected(facts, name, "not as it was written") for name in pruned.invalid]
    if pruned.left:
        event = events.CheckpointsLeft(generation=facts.number, reasons=dict(pruned.left))
        news.append(Record(event))
    return tuple(news)


def _observe_commit(facts: RunFacts, committed: Committed, now: float) -> tuple[News, ...]:
    event = facts.checkpoints.note_committed(committed, facts.number, now)
    facts.ledgers.forget(committed.step)
    return (Record(event),)


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
        case ForkServerReplaced():
            return _observe_replaced(facts, handle, message)
        case AgentFailed(text, what, is_preempted):
            culprit = Culprit(what, handle.spec.name)
            facts.lose_by(handle, AgentLost(culprit, text, (), is_preempted=is_preempted), now)
        case Heartbeat(hearing=hearing, fork_server=fork_server):
            handle.hearing, handle.fork_server = hearing, fork_server
            return observe_process(facts, message, now)
        case DevicesRead():
            return observe_devices(facts, handle, message, now)
        case WorkerForked() | WorkerExited():
            return observe_process(facts, message, now)
        case OutputLine():
            return _observe_line(facts, message)
        case StorageTold(news=news) if news is not None:
            return (Record(storage_event(facts.number, news, agent=handle.spec.name)),)
        case FromWorker():
            return observe_worker(facts, message, now)
        case _:
            return (warning(facts, f"agent {handle.spec.name}: {unknown(message)}"),)
    return ()


def _observe_replaced(
    facts: RunFacts, handle: AgentHandle, replaced: ForkServerReplaced
) -> tuple[News, ...]:
    """A fork server has ended, and no worker with it: named like any fault, and nothing is done."""
    name, hung = handle.spec.name, replaced.hung
    node = facts.agents.node_of_agent(handle, "")
    facts.health.forget(Culprit("fork_server", name))
    handle.fork_server = ForkServerSigns()
    diagnosed = events.FailureDiagnosed(
        generation=facts.number,
        node=node,
        culprit=Culprit("fork_server", name, node),
        failure="crash" if hung is None else "hang",
        cause=replaced.text,
        evidence=() if hung is None else fork_server_facts(hung),
        latency_s=None if hung is None else round(hung.since_s, 3),
    )
    other = "another one forks from now on, and no worker has ended with it"
    if not replaced.is_ready:
        other = "no worker has ended with it; no other one stood by: a new one imports first"
    decided = events.RecoveryDecided(generation=facts.number, action="ignore", reason=other)
    return (Record(diagnosed), Record(decided))


def _observe_line(facts: RunFacts, line: OutputLine) -> tuple[News, ...]:
    """Show a line, unless it only follows from a failure that is known already: it stays in its
    log."""
    if facts.generation is not None:
        generation = facts.generation_of(line.generation)
        if generation is None or not generation.is_heard(line.worker):
            return ()
    return (ShowLine(line.worker, line.text),)
