"""The controller's hand in checkpoints: commits what workers have made durable, prunes, finds what
to resume from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dougong.checkpoint import repository
from dougong.checkpoint.directories import list_committed, size_of
from dougong.checkpoint.disk import storage_error
from dougong.checkpoint.export import small_files
from dougong.checkpoint.manifest import IMPORTED, Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.checkpoint.proof.signing import SigningKey
from dougong.control.worker_messages import PartDurable
from dougong.errors import CheckpointError, DougongError, RecordError
from dougong.fingerprint import judge
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.launcher.agent.answers import InspectedModel
from dougong.launcher.controller.config import FROM_START, ResumePoint
from dougong.launcher.controller.inbound.inbox import Background
from dougong.launcher.controller.inbound.items import (
    CheckpointsPruned,
    CommitFailed,
    Committed,
    FoundCheckpoint,
)
from dougong.models.stored import companions
from dougong.parallel.plan import Plan
from dougong.planner.resume import check_written, describe_data, identity
from dougong.records.event.base import RunEvent
from dougong.records.events import (
    CheckpointCommitted,
    CheckpointFailed,
    FirstStep,
    GenerationStarted,
    StateRestored,
)
from dougong.records.finished import resume_command
from dougong.records.machine import package_versions
from dougong.records.metrics import MetricsRow
from dougong.records.recomputation import recorded_after


@dataclass(frozen=True)
class RunOrigin:
    """What fixes the numbers of this run beside its job; a checkpoint keeps it, and is compared
    with it at a resume. `kernels`: `judge.record` of the workers' fingerprints, empty where none
    was taken."""

    model: InspectedModel
    kernels: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CheckpointManager:
    """One run's checkpoints. Commits, and the search for a valid one, run one after the other in
    `background`: a large one holds up neither training nor the controller. Results reach the inbox.

    `resume_point`: which checkpoint the first search is for, and whether there have been any.
    `read_rows`: the run's rows of metrics, in the order written. `fence`: this controller's number;
    its gate is opened before the first search. `key`: by which all are signed; None: none is.
    """

    root: Path
    job: Job
    background: Background
    resume_point: ResumePoint = FROM_START
    read_rows: Callable[[], Iterable[MetricsRow]] = tuple
    fence: int = 0
    key: SigningKey | None = None
    _trusted: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _told_left: set[tuple[str, str]] = field(default_factory=set)
    _companions: Mapping[str, bytes] | None = None
    _generation: int = 0
    _is_read: bool = False
    _is_due: bool = False

    def commit(
        self,
        step: int,
        generation: int,
        messages: Sequence[PartDurable],
        plan: Plan,
        origin: RunOrigin,
        parent: str | None,
    ) -> None:
        """Make a checkpoint of all workers' parts; `Committed` or `CommitFailed` comes to the
        inbox. `parent`: the checkpoint that this one follows."""
        self._generation = generation
        kinds = declaration_of(self.job.optimizer).kinds_like_parameters
        told = repository.Additions(
            metadata=self._metadata(step, plan, origin, parent),
            expected=repository.expected_tensors(origin.model.inventory, kinds),
            key=self.key,
        )

        def work() -> Committed | CommitFailed:
            try:
                additions = replace(told, companions=self._small_files())
                parts = [CheckpointPart.from_json(message.part) for message in messages]
                return self._commit(step, generation, parts, additions)
            except BaseException as error:  # whatever it is, the controller must hear of it
                return CommitFailed(step, error)

        self.background.call(work)

    def note(self, event: RunEvent) -> None:
        """Old checkpoints are deleted when the controller knows of a new one; `CheckpointsPruned`
        comes to the inbox. But none is while a generation takes its state, which may be from a
        checkpoint that was the newest one when it began. After a refusal room is made at once."""
        match event:
            case GenerationStarted():
                self._is_read = True
            case StateRestored() | FirstStep():
                self._is_read = False
            case CheckpointCommitted():
                self._is_due = True
            case CheckpointFailed(generation=generation):
                self.background.call(lambda: self._clear(generation))
            case _:
                return
        if self._is_due and not self._is_read:
            self._is_due = False
            generation = self._generation
            self.background.call(lambda: self._prune(generation))

    def find(self, origin: RunOrigin) -> None:
        """Look for the checkpoint to go on from, after the commits that were begun: the one that
        was asked for, else the newest valid one; every byte is read. `FoundCheckpoint` comes to
        the inbox, also where storage has refused to give one; or why a resume from it is
        refused. Then what controllers before this one left is deleted."""

        def work() -> FoundCheckpoint:
            try:
                return self._with_records(self._find(origin))
            except OSError as error:
                refusal = storage_error(Path(error.filename or self.root), error)
                return FoundCheckpoint(None, refusal=refusal, is_away=True)
            except DougongError as error:
                if not isinstance(error.__cause__, OSError):
                    raise
                return FoundCheckpoint(None, refusal=error, is_away=True)

        self.background.call(work)
        self.background.call(self._clear)

    def _small_files(self) -> Mapping[str, bytes]:
        """What lies beside the weights in every checkpoint of this run, read once."""
        if self._companions is None:
            self._companions = companions_of(self.root, self.job, self.key)
        return self._companions

    def _find(self, origin: RunOrigin) -> FoundCheckpoint:
        if self.fence:
            repository.open_gate(self.root, self.fence)
        # Now: the folders that they come from may be gone when the first checkpoint is due.
        self._small_files()
        chosen = self.resume_point.chosen
        if chosen is None:
            return self._find_newest(origin)
        found = repository.valid_one_of(self.root, chosen, key=self.key) if chosen else None
        warnings = self._accept(found, origin)
        places = [place.path for place in list_committed(self.root)]
        later = places if found is None else places[: places.index(found)]
        aside = repository.set_aside(self.root, later, self.fence) if later else None
        # A wish is met once: what is committed from now on is this run's.
        self.resume_point = replace(self.resume_point, chosen=None, has_committed=chosen > 0)
        moved = tuple(path.name for path in later)
        return FoundCheckpoint(found, (), warnings, moved, aside)

    def _find_newest(self, origin: RunOrigin) -> FoundCheckpoint:
        results: list[repository.VerifyResult] = []
        found = repository.newest_valid(self.root, results.append, key=self.key)
        refusal = None
        # A run that has had checkpoints is not begun anew because its storage is ill.
        if found is None and (results or self.resume_point.has_committed):
            names = [result.directory.name for result in results]
            resume = resume_command(self.root.parent)
            refusal = repository.none_is_valid(self.root, names, resume, self.key)
            if not results or any(result.is_unread for result in results):
                return FoundCheckpoint(None, refusal=refusal, is_away=True)
        warnings = self._accept(found, origin)
        return FoundCheckpoint(found, self._reject(results, found), warnings, refusal=refusal)

    def _reject(
        self, results: Sequence[repository.VerifyResult], found: Path | None
    ) -> tuple[repository.RejectedCheckpoint, ...]:
        """What is news of those that are not valid. Where a run is refused for them they stay."""
        told = repository.reject(self.root, results, self.fence, moves=found is not None)
        news = tuple(one for one in told if one.name not in self._told)
        # What could not be read is looked at again, and the name of what was moved is another's.
        self._told.update(one.name for one in told if one.is_left)
        return news

    def _accept(self, found: Path | None, origin: RunOrigin) -> tuple[str, ...]:
        """Warnings about going on from this one. Raises why that must not be."""
        if found is None:
            return ()
        self._trusted.add(found.name)
        written = Manifest.load(found, self.key).metadata
        check_written(str(found), written.get("job"), self.job)
        refuse_other_data(found, written, origin)
        warnings = compare_recipes(self.job, found, written, origin)
        warnings += compare_versions(self.job, found, written, package_versions())
        return warnings + compare_kernels(self.job, found, written, origin)

    def _with_records(self, found: FoundCheckpoint) -> FoundCheckpoint:
        """With what has been recorded of the steps that are to be computed again; a warning where
        that cannot be read."""
        step, digest = 0, None
        if found.directory is not None:
            manifest = Manifest.load(found.directory, self.key)
            step, digest = manifest.step, manifest.metadata.get("ledger")
        try:
            return replace(found, recorded=recorded_after(self.read_rows(), step, digest))
        except (RecordError, OSError) as error:
            text = f"{error}; so steps that are computed again are compared with nothing"
            return replace(found, warnings=(*found.warnings, text))

    def _commit(
        self,
        step: int,
        generation: int,
        parts: list[CheckpointPart],
        additions: repository.Additions,
    ) -> Committed:
        start = time.monotonic()
        directory = repository.commit(self.root, step, generation, parts, additions, self.fence)
        # What this process has just written, or has read whole, need not be read again by `prune`.
        self._trusted.add(directory.name)
        self.resume_point = replace(self.resume_point, has_committed=True)
        return Committed(step, directory, size_of(directory), time.monotonic() - start)

    def _prune(self, generation: int) -> CheckpointsPruned:
        """Apart from the commit: the new checkpoint is there, whatever becomes of the old ones."""
        keep = self.job.checkpoint.keep
        try:
            known = repository.Known(self._trusted, self._told, self.key)
            pruned = repository.prune(self.root, keep, generation, known, self.fence)
        except (DougongError, OSError) as error:
            return CheckpointsPruned(left=self._news([(self.root.name, str(error))]))
        self._trusted.update(path.name for path in pruned.kept)
        removed = tuple(path.name for path in pruned.removed)
        invalid = tuple(p.name for p in pruned.invalid if p.name not in self._told)
        self._told.update(invalid)
        return CheckpointsPruned(removed, invalid, self._news(pruned.left))

    def _clear(self, generation: int = 0) -> CheckpointsPruned | None:
        """Not only after a commit: on a full disk none succeeds before there is room."""
        try:
            left = repository.clear(self.root, generation, self.fence)
        except OSError as error:
            left = [(self.root.name, str(error))]
        news = self._news(left)
        return CheckpointsPruned(left=news) if news else None

    def _news(self, left: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Of what is left where it lies, what has not been told before: it is left each time."""
        news = tuple(item for item in left if item not in self._told_left)
        self._told_left.update(news)
        return news

    def _metadata(
        self, step: int, plan: Plan, origin: RunOrigin, parent: str | None
    ) -> dict[str, Any]:
        """What a checkpoint says of its run, for `Manifest.metadata`."""
        recipe, sources = origin.model.recipe, origin.model.sources
        return {
            "sources": None if sources is None else asdict(sources),
            "job": identity(self.job),
            "recipe": {"digest": recipe.digest, **recipe.to_dict()},
            "plan": _describe_plan(plan),
            "data": describe_data(self.job, step, origin.model.data),
            "random": {"seed": self.job.seed},
            "kernels": dict(origin.kernels),
            "parent": parent,
            "versions": package_versions(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def _describe_plan(plan: Plan) -> list[dict[str, Any]]:
    workers = []
    for worker in plan.workers:
        experts = [list(of_site) for of_site in worker.experts]
        workers.append({"worker": worker.name, "lanes": list(worker.lanes), "experts": experts})
    return workers


def refuse_other_data(found: Path, written: Mapping[str, Any], origin: RunOrigin) -> None:
    """CheckpointError when the data is not what the checkpoint was trained on. `written`: the
    checkpoint's metadata, here and below."""
    data = origin.model.data
    before, now = written.get("data", {}).get("digest"), data.get("digest")
    if before is not None and now is not None and before != now:
        raise CheckpointError(
            f"{found}: was trained on data with digest {before}, but {data.get('name')} has {now} "
            "now, so the next steps would be another run's; put the data back, or begin a new run "
            "with `model: {path: ...}`"
        )


def compare_recipes(
    job: Job, found: Path, written: Mapping[str, Any], origin: RunOrigin
) -> tuple[str, ...]:
    """Another release may order sums otherwise: CheckpointError, or a warning where the job allows
    other bits."""
    before, recipe = written.get("recipe"), origin.model.recipe
    if before is None or before["digest"] == recipe.digest:
        return ()
    changed = _changes(before, recipe.to_dict())
    if not changed:
        return ()
    text = f"{found}: was computed by another recipe ({changed}), so the next steps have other bits"
    if job.needs_exact_kernels:
        raise CheckpointError(
            f"{text}; go on with the release and devices that wrote it, or add -o numerics=bounded"
        )
    return (text,)


def compare_versions(
    job: Job, found: Path, written: Mapping[str, Any], now: Mapping[str, str]
) -> tuple[str, ...]:
    """Warnings about other releases of libraries than those that the checkpoint names.

    CheckpointError where the job promises its bits and transformers is another: its code computes,
    and no probe runs it. torch's kernels are probed, dougong's order of sums is the recipe's.
    """
    before = written.get("versions", {})
    changed = {}
    for name, version in now.items():
        if before.get(name, version) != version:
            changed[name] = f"{name} {before[name]} then, {version} now"
    if not changed:
        return ()
    text = f"{found}: was written with other software: {'; '.join(changed.values())}"
    if "transformers" in changed and job.needs_exact_kernels:
        raise CheckpointError(
            f"{text}; transformers computes the model, so the next steps may have other bits: pip "
            f"install transformers=={before['transformers']}, or accept them: -o numerics=bounded"
        )
    return (text,)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The entries that differ, in words. What either does not know is no difference: an earlier
    release wrote fewer entries, and the forms are empty where no device was asked."""
    changed = []
    for key, value in now.items():
        if before.get(key, "") != "" and value != "" and before[key] != value:
            changed.append(f"{key}: {before[key]} then, {value} now")
    return "; ".join(changed)


def compare_kernels(
    job: Job, found: Path, written: Mapping[str, Any], origin: RunOrigin
) -> tuple[str, ...]:
    """Warnings about going on with other kernels than those that made the checkpoint, where the job
    allows it; else CheckpointError."""
    if IMPORTED in written:
        return ()  # of another program's bits nothing is promised
    before = written.get("kernels", {})
    verdict = judge.judge_resume(before, origin.kernels, job.needs_exact_kernels)
    if verdict.refusal is not None:
        raise CheckpointError(f"{found}: {verdict.refusal}")
    return verdict.warnings


def companions_of(root: Path, job: Job, key: SigningKey | None = None) -> dict[str, bytes]:
    """The small files beside this run's weights: those of a checkpoint of it, where there is one,
    for the job's model folder may have changed or be gone; else those of the job.

    Raises `ModelError` for a file of the model folder that is not whole.
    """
    for place in list_committed(root):
        try:
            held = small_files(place.path, Manifest.load(place.path, key))
        except (CheckpointError, OSError):
            continue  # whoever looks for a checkpoint to go on from says so
        return {name: data for name, data in held.items() if companions.is_companion(name)}
    base = None if job.model.path is None else Path(job.model.path)
    return companions.of_job(base, tokenizer_path(job), job.model.config)


def tokenizer_path(job: Job) -> Path | None:
    """The file or folder of the tokenizer that the data is read with; None where it has no files:
    bytes, and data that is tokens already."""
    if job.data.tokenizer in (None, "bytes"):
        return None
    return Path(job.data.tokenizer).expanduser()
