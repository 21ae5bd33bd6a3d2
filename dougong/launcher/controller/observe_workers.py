"""Observe what workers and their processes say: what it changes in what is known, and what of it is
news."""

from __future__ import annotations

from dougong.control.messages import FromWorker, Heartbeat, WorkerExited, WorkerForked
from dougong.control.worker_messages import (
    DrillAnnounced,
    LinksProbed,
    PartDurable,
    SaveFailed,
    StateFetched,
    StepDone,
    StepRepeated,
    StepValidated,
    StorageTold,
    StoreRequest,
    UpdateSkipped,
    WorkerDone,
    WorkerLeft,
    WorkerMessage,
    WorkerRaised,
    WorkerRests,
    WorkerWarning,
)
from dougong.fault.diagnosis import diagnose
from dougong.fault.drill import FiredDrill
from dougong.launcher.controller.actions import (
    AnswerWorkers,
    News,
    Record,
    RecordStep,
    ShowException,
)
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.looks import unknown, warning
from dougong.parallel.bridge.measured import slow_links
from dougong.records import events
from dougong.records.event.storage import storage_event
from dougong.records.events import SurvivorLost
from dougong.records.metrics import MetricsRow


def observe_process(
    facts: RunFacts, message: Heartbeat | WorkerForked | WorkerExited, now: float
) -> tuple[News, ...]:
    generation = facts.generation_of(message.generation)
    match message:
        case WorkerExited(0, worker, task):
            # A child's end after its answer is no second answer: the first one counts.
            facts.answers.setdefault((task, worker), message)
        case _ if generation is None:
            return ()
        case Heartbeat():
            generation.note_beat(message, now)
        case _ if message.worker not in generation.workers:
            return ()
        case WorkerForked(_, worker, pid):
            generation.note_forked(worker, pid)
            if generation.is_formed:
                facts.recoveries.note_formed(now)
        case WorkerExited():
            return _observe_exit(facts, generation, message, now)
    return ()


def _observe_exit(
    facts: RunFacts, generation: Generation, message: WorkerExited, now: float
) -> tuple[News, ...]:
    """A process has ended. One that was to go on in the next generation is missed there: that is
    news, and no second failure of a generation that is broken already."""
    failure = generation.note_exit(message, now)
    if failure is None or not generation.has_ended:
        return ()
    diagnosis = diagnose(failure)
    event = SurvivorLost(
        generation=generation.number,
        worker=diagnosis.worker,
        node=facts.agents.node_of(diagnosis.worker, ""),
        failure=diagnosis.kind,
        cause=diagnosis.cause,
    )
    return (Record(event),)


def _observe_step(
    facts: RunFacts, generation: Generation, done: StepDone, now: float
) -> tuple[News, ...]:
    facts.step = facts.recorded = done.step
    facts.health.times.step_done()
    recorded = RecordStep({"generation": generation.number, **done.row})
    news: list[News] = [recorded, *_observe_routers(facts, done)]
    if not generation.has_stepped:
        # The event comes first: "training again at step 61", then that step's own line.
        news = [*_observe_first_step(facts, generation, done.step, now), *news]
    row = {**done.row, "step": done.step}
    recomputed = facts.recomputation.take(generation.number, row)
    facts.ledgers.take(generation.number, row)
    if recomputed is not None:
        news.append(Record(recomputed))
    return tuple(news)


def _observe_first_step(
    facts: RunFacts, generation: Generation, step: int, now: float
) -> list[Record]:
    generation.has_stepped, generation.first_step = True, step
    first = events.FirstStep(generation=generation.number, step=step)
    over = facts.recoveries.end(generation.restarted, now)
    return [Record(first), *[Record(event) for event in over]]


def _observe_fetched(
    facts: RunFacts, generation: Generation, worker: str, fetched: StateFetched, now: float
) -> tuple[News, ...]:
    """A worker has its part of the state; news when it is the last one. All of them have agreed on
    the step, which may be one before that of the order: who held a newer one may have ended."""
    generation.workers[worker].fetched = fetched
    facts.step = fetched.step
    restored = generation.fetched
    if restored is None:
        return ()
    facts.recoveries.note_fetched(now)
    return (*_take_untold(facts, generation, fetched.step), Record(restored))


def _take_untold(facts: RunFacts, generation: Generation, step: int) -> tuple[RecordStep, ...]:
    """Rows of steps that are done and stay so, and whose teller was lost before it told: others
    have kept them."""
    told = [] if facts.unvalidated is None else [facts.unvalidated]
    validates = False
    for status in generation.workers.values():
        if status.fetched is not None:
            told += status.fetched.rows
            validates = validates or status.fetched.validates
    rows: dict[int, MetricsRow] = {}
    for row in told:
        is_known = row["step"] in rows and "val_loss" not in row
        if facts.recorded < row["step"] <= step and not is_known:
            rows[row["step"]] = row
    facts.recorded, facts.unvalidated = step, None
    if validates and step in rows and "val_loss" not in rows[step]:
        facts.recorded, facts.unvalidated = step - 1, rows.pop(step)
    for number in sorted(rows):
        facts.ledgers.take(rows[number]["generation"], rows[number])
    return tuple(RecordStep(rows[number]) for number in sorted(rows))


def _observe_validated(facts: RunFacts, told: StepValidated) -> tuple[RecordStep, ...]:
    """The validation that was made up completes the row of its step."""
    row = facts.unvalidated
    if row is None or row["step"] != told.step:
        return ()
    row = {**row, "val_loss": told.loss, "validate_s": told.seconds}
    if told.by_source:
        row["val_by_source"] = told.by_source
    facts.recorded, facts.unvalidated = told.step, None
    facts.ledgers.take(row["generation"], row)
    return (RecordStep(row),)


def _observe_routers(facts: RunFacts, done: StepDone) -> tuple[Record, ...]:
    """A layer that sends everything to few experts, or has stopped to."""
    if facts.model is None:
        return ()
    news = []
    for found in facts.routers.note(done.row, facts.model.inventory):
        kind = events.WarningRaised if found.is_bad else events.NoteTaken
        news.append(Record(kind(generation=facts.number, text=found.text)))
    return tuple(news)


def _observe_skip(
    facts: RunFacts, generation: Generation, skipped: UpdateSkipped
) -> tuple[News, ...]:
    """Later generations, and a resume, leave the same step out."""
    facts.skipped.add(skipped.step)
    news = []
    if skipped.times > 1:
        reason = f"step {skipped.step} was not finite, computed {skipped.times} times"
        news.append(_decided(generation, "skip_batch", reason))
    event = events.StepSkipped(
        generation=generation.number,
        step=skipped.step,
        loss=skipped.loss,
        grad_norm=skipped.grad_norm,
        where=skipped.where,
        in_a_row=skipped.in_a_row,
        first_sample=skipped.first_sample,
        last_sample=skipped.last_sample,
        windows=skipped.windows,
    )
    return (*news, Record(event))


def _decided(generation: Generation, action: str, reason: str) -> Record:
    """What all workers have decided alike, with nothing lost."""
    event = events.RecoveryDecided(generation=generation.number, action=action, reason=reason)
    return Record(event)


def _observe_part(
    facts: RunFacts, generation: Generation, worker: str, durable: PartDurable
) -> tuple[Record, ...]:
    # A thread of a worker that lives on may end a save of the broken generation: of that one no
    # other part will come.
    if durable.part.get("generation", generation.number) != generation.number:
        return ()
    if not facts.checkpoints.note_part(worker, durable):
        return ()
    return (Record(events.CheckpointStarted(generation=generation.number, step=durable.step)),)


def _observe_storage(
    facts: RunFacts, worker: str, message: SaveFailed | StorageTold
) -> tuple[Record, ...]:
    """Storage has refused something of a worker, which goes on; or takes it again."""
    if isinstance(message, StorageTold):
        news = message.news
        return () if news is None else (Record(storage_event(facts.number, news, worker)),)
    failed = facts.checkpoints.note_unsaved(message, worker, facts.number)
    return () if failed is None else (Record(failed),)


def _observe_drill(
    facts: RunFacts, generation: Generation, worker: str, drill: DrillAnnounced, now: float
) -> tuple[News, ...]:
    generation.note_drill(worker, drill.action, now)
    facts.fired.add(FiredDrill(drill.action, worker, drill.step))
    event = events.DrillFired(
        generation=generation.number, worker=worker, step=drill.step, action=drill.action
    )
    return (Record(event),)


def observe_worker(facts: RunFacts, message: FromWorker, now: float) -> tuple[News, ...]:
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
        case WorkerRests():
            generation.workers[worker].rests = True
            return ()
        case WorkerLeft(step):
            generation.note_left(worker, step)
            return ()
        case StoreRequest() as request:
            answers = tuple(generation.store.ask(worker, request))
            return (AnswerWorkers(generation.number, answers),) if answers else ()
        case StateFetched() as fetched:
            return _observe_fetched(facts, generation, worker, fetched, now)
        case other:
            return _observe_training(facts, generation, worker, other, now)


def _observe_training(
    facts: RunFacts, generation: Generation, worker: str, message: WorkerMessage, now: float
) -> tuple[News, ...]:
    match message:
        case StepDone():
            return _observe_step(facts, generation, message, now)
        case UpdateSkipped():
            return _observe_skip(facts, generation, message)
        case StepRepeated(step, where):
            reason = f"step {step} was not finite ({where}); computed once more it is"
            return (_decided(generation, "retry_step", reason),)
        case StepValidated() as told:
            return _observe_validated(facts, told)
        case PartDurable():
            return _observe_part(facts, generation, worker, message)
        case DrillAnnounced():
            return _observe_drill(facts, generation, worker, message, now)
        case SaveFailed() | StorageTold():
            return _observe_storage(facts, worker, message)
        case WorkerWarning(text):
            return (warning(facts, text, worker),)
        case LinksProbed(links, copies):
            measured = events.LinksMeasured(
                generation=generation.number, links=links, copies=copies
            )
            return Record(measured), *(warning(facts, text) for text in slow_links(links))
        case _:
            return (warning(facts, f"worker {worker}: {unknown(message)}"),)
