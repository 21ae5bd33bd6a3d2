"""A run that goes on from a DeepSpeed universal checkpoint: its directory, with one checkpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dougong.checkpoint.directories import SET_ASIDE
from dougong.checkpoint.huggingface import Names, names_of
from dougong.checkpoint.manifest import IMPORTED, MODEL_GROUP
from dougong.checkpoint.part import CheckpointPart, PartWriter, StateShape
from dougong.checkpoint.repository import Additions, commit, expected_tensors
from dougong.checkpoint.snapshot import Saver, StateTensor
from dougong.deadlines import DEADLINES
from dougong.deepspeed.universal import MOMENTS, UniversalCheckpoint
from dougong.errors import CheckpointError, DougongError, PlaceError, SourceError
from dougong.job.load import ResolvedJob, placed
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.launcher.controller.checkpoints import companions_of
from dougong.models.configs.load import load_config
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_on_meta
from dougong.planner.resume import identity
from dougong.records.claim import Claim, claim, has_committed, strangers_in
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted, NoteTaken, RunCreated, RunEnded
from dougong.records.files import is_empty_folder, why_not_writable
from dougong.records.lease import LEASES
from dougong.records.machine import describe_machine
from dougong.records.rebuilt_status import known_status
from dougong.training.start.preflight import inspect_only, vocabulary_of

GENERATION = 0
"""Before the run's first one."""
MOST_BYTES = 2 << 30
"""Of the state that is held in memory at once."""
_COPIES = 1 + len(MOMENTS)


@dataclass(frozen=True)
class Imported:
    """What a run goes on from. `steps`: those that its job asks for."""

    run_dir: Path
    step: int
    steps: int
    num_tensors: int


def import_deepspeed(resolved: ResolvedJob, folder: Path, path: Path) -> Imported:
    """Make a new run at `path` that `dougong resume` goes on with: with weights, masters, moments
    and the step of the checkpoint in `folder`.

    Raises PlaceError for a `path` where no run can be, before the checkpoint is read; SourceError
    that names what does not fit the job's model, or is damaged, before anything is written.
    Whatever else ends it, such as a full disk or Ctrl-C: nothing of the run stays at `path`.
    """
    _refuse_place(path, folder)
    job = resolved.job
    _refuse_adapters(job)
    with placed(resolved):
        inventory, names = inspect_only(job), _names_of(job)
        expected = expected_tensors(inventory, declaration_of(job.optimizer).kinds_like_parameters)
        trained = {shape.name for shape in expected if shape.group != MODEL_GROUP}
        source = UniversalCheckpoint(folder, names)
        source.check(trained)
        with _whole_or_nothing(path) as run_dir:
            run_dir.write_job(resolved.to_yaml())
            created = RunCreated(generation=GENERATION, job=job.job, machine=describe_machine())
            run_dir.append_event(created)
            parts = _save(names, source, trained, run_dir.checkpoints)
            directory = _commit(job, source, expected, parts, run_dir.checkpoints)
            _record(run_dir, source, directory)
    return Imported(path, source.step, job.steps, len(list(names.tensors())))


def _refuse_adapters(job: Job) -> None:
    if job.model.lora is not None:
        raise SourceError(
            "model.lora: DeepSpeed's checkpoint has none of these adapters; import it without "
            "model.lora, export the run, and begin another with the export as model.path"
        )


def _refuse_place(path: Path, folder: Path) -> None:
    """Before gigabytes are read for a run that could not lie there."""
    why = _why_no_run(path, folder)
    if why:
        raise PlaceError(f"--into {path}: {why}; name a folder that is not there yet, or is empty")


def _why_no_run(path: Path, folder: Path) -> str:
    """In words; empty where a run can lie in `path`."""
    why = why_not_writable(path)
    if why:
        return why
    inside = path.resolve()
    if folder.resolve() in (inside, *inside.parents):
        return f"is in the checkpoint that is read ({folder}), which is left as it is"
    run = RunDir(path)
    if not path.is_dir():
        return ""
    if has_committed(run):
        return "holds a run already, with checkpoints"
    strangers = strangers_in(run)
    return f"holds {strangers[0]} and is no run's folder" if strangers else ""


def _names_of(job: Job) -> Names:
    network = tuned_on_meta(job.model, load_config(job.model, vocabulary_of(job)))
    return names_of(network, find_sites(network), job.model)


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[RunDir]:
    """A new run's directory. Where the block fails, what it has made is gone, and what lay there
    lies there again."""
    path = path.absolute()
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    there = [] if missing else list(path.iterdir())
    empty = {entry.name for entry in there if is_empty_folder(entry)}
    had = {entry.name for entry in there}
    try:
        with claim(path) as claimed:
            try:
                yield claimed.run_dir
            except BaseException:
                _put_back(path, claimed, had, empty)
                raise
    except BaseException:
        # Empty ones alone: another command may have been quicker to make a run there.
        for folder in missing and (path / LEASES, *missing):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _put_back(path: Path, claimed: Claim, had: Collection[str], empty: Collection[str]) -> None:
    """`had`: the names that lay at `path` before; `empty`: those of empty folders, which may be
    mounted there and stay."""
    moved = [] if claimed.earlier is None else list(claimed.earlier.iterdir())
    ours = {entry.name for entry in moved}
    for entry in path.iterdir():
        if entry.name in empty:
            for made in entry.iterdir():
                _remove(made)
        elif entry.name in ours or entry.name not in {*had, LEASES, SET_ASIDE}:
            _remove(entry)
    for entry in moved:
        entry.rename(path / entry.name)
    if claimed.earlier is not None:
        claimed.earlier.rmdir()
    # Last: until then nobody else takes the place.
    for name in {LEASES, SET_ASIDE} - set(had):
        _remove(path / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.name != "lost+found":
        path.unlink(missing_ok=True)


def _save(
    names: Names, source: UniversalCheckpoint, trained: set[str], root: Path
) -> list[CheckpointPart]:
    """All of it on storage, in parts that memory can hold."""
    parts: list[CheckpointPart] = []
    for rank, share in enumerate(_shares(names)):
        _save_share(root, names, source, parts, (rank, share, trained))
    return parts


def _commit(
    job: Job,
    source: UniversalCheckpoint,
    expected: list[StateShape],
    parts: list[CheckpointPart],
    root: Path,
) -> Path:
    """The checkpoint's directory."""
    metadata = {
        "job": identity(job),
        IMPORTED: {"from": str(source.folder), "format": "DeepSpeed universal checkpoint"},
        "random": {"seed": job.seed},
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    additions = Additions(metadata, expected, companions_of(root, job))
    return commit(root, source.step, GENERATION, parts, additions)


def _save_share(
    root: Path,
    names: Names,
    source: UniversalCheckpoint,
    parts: list[CheckpointPart],
    share: tuple[int, list[str], set[str]],
) -> None:
    rank, logical, trained = share
    refusals: list[str] = []

    def refused(step: int, reason: str) -> None:
        refusals.append(reason)

    writer = PartWriter(f"import/{rank}", rank, GENERATION)
    saver = Saver(root, writer, parts.append, refused, names, DEADLINES)
    try:
        saver.stage(source.step, _state(source, logical, trained))
        saver.wait(DEADLINES.commit_checkpoint_s)
    except BaseException:
        # Who cleans up must not meet a thread that still writes.
        with contextlib.suppress(DougongError):
            saver.wait(DEADLINES.records_end_s)
        saver.abandon()
        raise
    if refusals or len(parts) != rank + 1:
        words = "; ".join(refusals) or f"{root}: the disk does not answer"
        raise CheckpointError(f"{words}; nothing of the run is kept: import it again then")


def _state(
    source: UniversalCheckpoint, logical: list[str], trained: set[str]
) -> Iterator[StateTensor]:
    for name in logical:
        yield StateTensor(MODEL_GROUP, name, source.weights(name))
        if name not in trained:
            continue
        for kind in MOMENTS:
            yield StateTensor(kind, name, source.moment(kind, name))
        count = source.updates(name)
        if count:
            yield StateTensor("step", name, torch.tensor(float(count)))


def _shares(names: Names) -> Iterator[list[str]]:
    """All tensors in their order, a list for each part."""
    share: list[str] = []
    num_bytes = 0
    for name, shape in names.tensors():
        share.append(name)
        num_bytes += _COPIES * 4 * torch.Size(shape).numel()
        if num_bytes >= MOST_BYTES:
            yield share
            share, num_bytes = [], 0
    if share:
        yield share


def _record(run_dir: RunDir, source: UniversalCheckpoint, directory: Path) -> None:
    text = f"weights, moments and step {source.step} are those of {source.folder} (DeepSpeed)"
    run_dir.append_event(NoteTaken(generation=GENERATION, text=text))
    num_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    committed = CheckpointCommitted(
        generation=GENERATION,
        step=source.step,
        directory=directory.name,
        num_bytes=num_bytes,
        seconds=0.0,
    )
    run_dir.append_event(committed)
    step = source.step
    ended = RunEnded(kind="stopped", generation=GENERATION, step=step, saved=step, failure=None)
    run_dir.append_event(ended)
    status, _ = known_status(run_dir)
    run_dir.write_status(status)
