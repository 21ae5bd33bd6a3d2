"""What the controller knows of a run's checkpoints: parts that have come, commits, failures, the
search."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from dougong.checkpoint.directories import step_of
from dougong.control.worker_messages import PartDurable, SaveFailed
from dougong.errors import DougongError, StorageError
from dougong.launcher.controller.inbound.items import Committed, FoundCheckpoint
from dougong.records.events import CheckpointCommitted, CheckpointFailed
from dougong.records.recomputation import RecordedStep
from dougong.records.unsaved import commit_words

_FAILED_COMMITS = 2
"""So many in a row end a run that has no checkpoint at all."""

Parts = dict[str, PartDurable]
"""By worker."""


@dataclass(frozen=True)
class RefusedCommit:
    """Storage has refused a commit whose parts are all there. `at`: monotonic seconds."""

    step: int
    parts: Parts
    at: float


@dataclass(frozen=True)
class StorageAway:
    """Storage does not give the checkpoints. `since`: when a search found that first, and `at`: the
    last of so many `tries` (monotonic seconds)."""

    since: float
    at: float
    tries: int = 1


@dataclass
class CheckpointFacts:
    """What is known of a run's checkpoints.

    `parts`: of checkpoints that are not whole yet, by step; all are of the present generation.
    `unsaved`: its steps of which storage has refused a part. `num_open`: commits under way;
    `refused`: the newest one, where storage has refused it. `error`: how a run ends whose last
    save failed, and `failed`: as it was told; None where it did not. `parent`: name of the
    checkpoint that the next one follows, and `committed_at`: when this controller committed it
    (monotonic seconds); `known`: the step of the newest that is there, as this controller has found
    or committed it, 0 for none; None while it has done neither. `num_sought`: searches under way;
    `found`: the answer to the last one; `away`: storage has not given it.
    """

    parts: dict[int, Parts] = field(default_factory=dict)
    unsaved: set[int] = field(default_factory=set)
    num_open: int = 0
    refused: RefusedCommit | None = None
    error: DougongError | None = None
    failed: CheckpointFailed | None = None
    parent: str | None = None
    committed_at: float | None = None
    known: int | None = None
    num_sought: int = 0
    found: FoundCheckpoint | None = None
    away: StorageAway | None = None
    _committing: dict[int, Parts] = field(default_factory=dict)

    def note_part(self, worker: str, message: PartDurable) -> bool:
        """A worker's part is on storage; True when it is the first of its step."""
        parts = self.parts.setdefault(message.step, {})
        parts[worker] = message
        return len(parts) == 1

    def whole(self, num_workers: int) -> dict[int, Parts]:
        """Parts by step and worker, of the steps of which every worker's part is there."""
        return {step: parts for step, parts in self.parts.items() if len(parts) == num_workers}

    @property
    def awaited(self) -> list[int]:
        """Steps of which a part has yet to come, and nobody has said that it will not."""
        return sorted(step for step in self.parts if step not in self.unsaved)

    def has_refused(self, step: int) -> bool:
        """Whether storage has refused a worker's part of this step, or of a later one."""
        return max(self.unsaved, default=-1) >= step

    def begin_commit(self, step: int, parts: Parts) -> None:
        """A checkpoint is being committed. A save that began before it will not be whole: workers
        save in the order of the steps."""
        self.parts = {later: known for later, known in self.parts.items() if later > step}
        self.refused = None
        self._committing[step] = parts
        self.num_open += 1

    def forget_parts(self) -> None:
        """The generation has ended."""
        self.parts.clear()
        self.unsaved.clear()
        self.refused = None

    def begin_search(self) -> None:
        """A checkpoint to go on from is looked for."""
        self.found = None
        self.num_sought += 1

    def begin_from(self, in_memory: bool) -> dict[int, RecordedStep] | None:
        """A generation begins, from what was found or from a later step that workers hold. What is
        recorded of the steps after the former; None where storage was not asked."""
        found = self.found
        if found is None or found.in_memory:
            return None
        self.found = replace(found, in_memory=in_memory)
        return dict(found.recorded)

    def lacks(self, step: int) -> bool:
        """Whether the present generation goes on from this step, which its workers' memory alone
        holds."""
        return self.found is not None and self.found.in_memory and step > self.newest_step

    @property
    def newest_step(self) -> int:
        """Of the checkpoint that a recovery would go on from; 0 for none."""
        return 0 if self.parent is None else step_of(Path(self.parent)) or 0

    def saved_step(self, before: int) -> int:
        """What a resume would go on from, 0 for the beginning. `before`: by the run's directory as
        this controller began, which counts until a search has given an answer: one that was ended,
        or that storage or damage has kept from one, has not found that there is none."""
        return before if self.known is None else self.known

    @property
    def num_failed(self) -> int:
        """So many saves in a row have failed."""
        return 0 if self.failed is None else self.failed.in_a_row

    @property
    def is_in_vain(self) -> bool:
        """Whether to train on would be for nothing: there is no checkpoint, and storage has refused
        several in a row. A run that has one goes on: storage may heal, and a fault costs no more
        than it would."""
        return self.newest_step == 0 and self.num_failed >= _FAILED_COMMITS

    def note_committed(
        self, committed: Committed, generation: int, now: float
    ) -> CheckpointCommitted:
        """A checkpoint exists; the event that tells it."""
        event = CheckpointCommitted(
            generation=generation,
            step=committed.step,
            directory=committed.directory.name,
            num_bytes=committed.num_bytes,
            seconds=round(committed.seconds, 3),
            after_failures=self.num_failed,
        )
        self._end_commit(committed.step)
        self.committed_at = now
        # A later one may have failed while this one was being committed.
        if self.failed is None or committed.step >= self.failed.step:
            self.error = self.failed = None
        self.parent = committed.directory.name
        self.known = self.newest_step
        return event

    def note_unsaved(
        self, failed: SaveFailed, worker: str, generation: int
    ) -> CheckpointFailed | None:
        """Storage has refused a worker's part; the event that tells it, once for a step."""
        if failed.step in self.unsaved or failed.step <= self.newest_step:
            return None
        self.unsaved.add(failed.step)
        return self._fail(failed.step, StorageError(f"{worker}: {failed.reason}"), generation)

    def note_failed(
        self, step: int, error: DougongError, generation: int, now: float
    ) -> CheckpointFailed | None:
        """A checkpoint could not be committed; the event that tells it. A commit that was tried
        again and failed alike is no news."""
        parts = self._end_commit(step)
        if parts is not None and isinstance(error.__cause__, OSError):
            self.refused = RefusedCommit(step, parts, now)
        before = self.failed
        if before is not None and (before.step, before.reason) == (step, str(error)):
            return None
        return self._fail(step, error, generation)

    def note_found(self, found: FoundCheckpoint, now: float) -> None:
        """A search has ended."""
        self.num_sought -= 1
        if self.num_sought > 0:
            return  # agents were lost meanwhile, and it has been asked again since
        self.found = found
        if not found.is_away:
            self.away = None
        elif self.away is None:
            self.away = StorageAway(now, now)
        else:
            self.away = replace(self.away, at=now, tries=self.away.tries + 1)
        self.parent = found.directory.name if found.directory is not None else None
        if found.refusal is None:
            self.known = self.newest_step

    def _end_commit(self, step: int) -> Parts | None:
        self.num_open -= 1
        return self._committing.pop(step, None)

    def _fail(self, step: int, error: DougongError, generation: int) -> CheckpointFailed:
        self.failed = CheckpointFailed(
            generation=generation,
            step=step,
            reason=str(error),
            newest=self.newest_step,
            in_a_row=self.num_failed + 1,
        )
        self.error = type(error)(commit_words(self.failed))
        return self.failed
