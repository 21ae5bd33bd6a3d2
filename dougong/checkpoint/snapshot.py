"""A worker's side of a checkpoint: copy its tensors to staging memory, then write them beside
training.

    training thread:  stage: device -> staging memory (training waits for this only)
    writer thread:    digest staged memory -> look for NaN -> write -> fsync
                      -> read back and compare -> on_durable(part)
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dougong.accelerators.staging import Staging
from dougong.checkpoint.directories import MODEL, pending_directory
from dougong.checkpoint.disk import (
    digest,
    opened,
    storage_error,
    sync_directory,
    sync_file,
    write_at,
)
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, FileRecord, name_in_file
from dougong.checkpoint.parameters import Piece, kept_dtype
from dougong.checkpoint.part import CheckpointPart, ModelDescription, PartWriter, StateShape
from dougong.checkpoint.tensorfile import (
    ITEM_BYTES,
    FileLayout,
    TensorShape,
    TensorSpan,
    files_by_tensor,
    plan_layout,
    refuse_not_finite,
)
from dougong.checkpoint.verify import read_back
from dougong.deadlines import Deadlines
from dougong.errors import CheckpointError, PeerError
from dougong.parallel.pieces import piece_named, tensor_of
from dougong.storage.beside import start_beside

OnDurable = Callable[[CheckpointPart], None]
Take = Callable[[Hashable, Tensor], Tensor]
"""Gives a tensor's place in staging memory, by its key."""
OnFailed = Callable[[int, str], None]
"""Is told the step whose part is not on storage, and why."""


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state, whole, or a piece of one, flat. `group`: "model", or an optimizer's
    state kind such as "exp_avg"; `name`: its logical name, or the piece's."""

    group: str
    name: str
    tensor: Tensor


@dataclass(frozen=True)
class _Staged:
    """One tensor, or one row or span of a shared tensor, in staging memory.

    `file`: where it goes, under the checkpoint's directory. `key`: its name in that file; `behind`:
    bytes of that tensor before these.
    """

    file: str
    group: str
    name: str
    key: str
    shape: TensorShape
    memory: Tensor
    row: int | None = None
    span: TensorSpan | None = None
    behind: int = 0

    @property
    def data(self) -> memoryview:
        return self.memory.reshape(-1).view(torch.uint8).numpy().data

    def is_first(self, layout: FileLayout) -> bool:
        """Whether its file begins with it."""
        is_first = self.row == 0 if self.span is None else self.span.begin == 0
        return is_first and self.name == next(iter(layout.tensors))

    def entry(self, layout: FileLayout) -> Entry:
        """Its place in the file, and what it is."""
        shape, offset = self.shape, layout.offsets[self.key] + self.behind
        where = (self.group, self.name, self.row, offset, shape.num_bytes)
        return Entry(*where, shape.dtype, shape.shape, digest(self.data), self.span)


@dataclass(frozen=True)
class _WriteJob:
    """Everything the writer thread needs; it shares nothing else with training."""

    step: int
    directory: Path
    files: dict[str, list[_Staged]]
    state: tuple[StateShape, ...]


class Saver:
    """Saves one worker's share of the state. One save at a time; `stage`, `wait` and `finish`
    belong to the training thread.

    Storage that refuses a part, or does not answer, ends no training: it is told, and the next save
    tries again.
    """

    def __init__(
        self,
        root: Path,
        writer: PartWriter,
        on_durable: OnDurable,
        on_failed: OnFailed,
        names: Names,
        deadlines: Deadlines,
    ) -> None:
        """`root`: the run's checkpoints/. `on_durable` and `on_failed` are called by the writer
        thread; `on_failed` also by the training thread, for a save that is left out."""
        self._root = root
        self._writer = writer
        self._on_durable, self._on_failed = on_durable, on_failed
        self._names = names
        self._deadlines = deadlines
        shared = names.shared_files()
        self._layouts = {f"{MODEL}/{name}": layout for name, layout in shared.items()}
        self._file_of = files_by_tensor(self._layouts)
        # Used again by the next save: `stage` waits for the one before, so nobody reads it then.
        self._staging = Staging()
        self._step = 0
        self._made: list[Path] = []
        self._error: BaseException | None = None
        self._refused: _WriteJob | None = None  # the newest save, where storage did not take it
        self._is_late = False  # the save under way has been waited for in vain
        self._is_over = threading.Event()  # no save is under way, or nobody wants it any more
        self._is_over.set()
        self._is_abandoned = False
        self._reserving: threading.Thread | None = None
        self._write_s, self._begun = 0.0, 0.0

    @property
    def write_s(self) -> float:
        """For how long, all in all, something has been written beside training."""
        now_s = 0.0 if self._is_over.is_set() else time.monotonic() - self._begun
        return self._write_s + now_s

    def reserve(self, tensors: Iterable[StateTensor]) -> None:
        """Take the staging memory now, beside training, for saves of such tensors: their shapes
        count, their values do not."""
        items = list(tensors)

        def work() -> None:
            for item in items:
                self._copy(item, self._staging.reserve)

        self._reserving = start_beside(work, "checkpoint-memory")

    def stage(
        self, step: int, tensors: Iterable[StateTensor], patience_s: float | None = None
    ) -> bool:
        """Copy the tensors and start writing them. Once this returns, the caller may change them.

        Waits first for the save before, so long at most (None: `stage_checkpoint_s`, and not at all
        for one that has been waited for in vain). Where that is not over, this save is left out,
        which `on_failed` is told: False. Floating tensors are float32, an optimizer's may be
        bfloat16; else raises `CheckpointError`, for a wrong shape `ModelError`; else as `wait`.
        """
        if not self.wait(patience_s):
            self._is_late = True
            limit = self._deadlines.words("stage_checkpoint_s")
            self._on_failed(
                step, f"the save before it is still being written, after more than {limit}"
            )
            return False
        if self._reserving is not None:
            self._reserving.join()
            self._reserving = None
        files: dict[str, list[_Staged]] = {}
        state = []
        for item in tensors:
            state.append(StateShape(item.group, item.name, tuple(item.tensor.shape)))
            for staged in self._copy(item, self._staging.copy):
                files.setdefault(staged.file, []).append(staged)
        self._staging.wait()
        directory = pending_directory(self._root, step, self._writer.generation, self._writer.fence)
        # The writer thread reads staging memory only; the tensors are training's again.
        self._start(_WriteJob(step, directory, files, tuple(state)))
        return True

    def wait(self, patience_s: float | None = None) -> bool:
        """Whether no save is under way, after waiting so long at most (None: as in `stage`).

        Raises what the writer thread has met that is not storage's (once), such as `NumericsError`,
        or `PeerError` once saves have been abandoned.
        """
        if patience_s is None:
            patience_s = 0.0 if self._is_late else self._deadlines.stage_checkpoint_s
        is_over = self._is_over.wait(patience_s)
        if self._is_abandoned:
            raise PeerError(f"{self._writer.worker}: its generation is over, and its saves with it")
        if not is_over:
            return False
        self._is_late = False
        # The thread has set it before it was over: nobody writes it while it is read.
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def finish(self, beat: Callable[[], None]) -> None:
        """Return when the newest save is durable and `on_durable` has returned.

        What storage refuses is tried again and again; after `commit_checkpoint_s` it is given up,
        which `on_failed` has been told. `beat` is called meanwhile. Raises as `wait`.
        """
        deadline = time.monotonic() + self._deadlines.commit_checkpoint_s
        while time.monotonic() < deadline:
            beat()
            if not self.wait(self._deadlines.storage_retry_s):
                continue
            if self._refused is None:
                return
            time.sleep(self._deadlines.storage_retry_s)
            self._start(self._refused)
        if not self._is_over.is_set():
            limit = self._deadlines.words("commit_checkpoint_s")
            self._on_failed(self._step, f"it is still being written after {limit}")

    def abandon(self) -> None:
        """Make nothing more durable, and let whoever waits go: the generation is over. A thread
        that is stuck in a call of the storage is left to itself; what it writes lies in a directory
        of this generation alone, and nobody is told of it. Any thread may call this."""
        self._is_abandoned = True
        self._is_over.set()

    def _start(self, job: _WriteJob) -> None:
        self._step = job.step
        self._begun = time.monotonic()
        self._is_over.clear()
        if self._is_abandoned:  # a moment ago
            self._is_over.set()
        start_beside(partial(self._run, job), f"checkpoint-{job.step}")

    def _copy(self, item: StateTensor, take: Take) -> list[_Staged]:
        is_half = item.group != MODEL_GROUP and item.tensor.dtype == torch.bfloat16
        if item.tensor.is_floating_point() and item.tensor.dtype != torch.float32 and not is_half:
            raise CheckpointError(
                f"{item.group} {item.name}: {item.tensor.dtype}, but the state is kept in float32; "
                "give master weights"
            )
        if item.group != MODEL_GROUP:
            return [self._copy_optimizer_tensor(item, take)]
        pieces = self._names.to_disk(item.name, item.tensor)
        return [self._copy_piece(item.name, piece, value, take) for piece, value in pieces]

    def _copy_optimizer_tensor(self, item: StateTensor, take: Take) -> _Staged:
        file = f"optimizer/rank{self._writer.rank:05d}.safetensors"
        key, part = name_in_file(item.group, item.name), piece_named(item.name)
        span = None if part is None else self._names.span(part)
        shape = TensorShape(key, kept_dtype(item.tensor.dtype), tuple(item.tensor.shape))
        memory = take((file, key, None), item.tensor)
        return _Staged(file, item.group, tensor_of(item.name), key, shape, memory, span=span)

    def _copy_piece(self, live: str, piece: Piece, value: Tensor, take: Take) -> _Staged:
        shape, behind = TensorShape(piece.name, piece.disk.dtype, piece.shape), 0
        file = f"{MODEL}/model-rank{self._writer.rank:05d}.safetensors"
        if piece.row is not None:
            file, behind = self._file_of[piece.name], piece.row * shape.num_bytes
        elif piece.span is not None:
            name, layout = self._names.file_of_pieces(tensor_of(live))
            file, behind = f"{MODEL}/{name}", piece.span.begin * ITEM_BYTES[shape.dtype]
            self._layouts[file] = layout
        memory = take((file, piece.name, piece.row, behind), value)
        place = (piece.row, piece.span, behind)
        return _Staged(file, MODEL_GROUP, piece.name, piece.name, shape, memory, *place)

    def _run(self, job: _WriteJob) -> None:
        try:
            part = self._try(job)
            if part is not None and not self._is_abandoned:
                self._on_durable(part)
        except BaseException as error:
            # Carried to the training thread, which raises it at its next `stage` or `wait`.
            self._error = error
        finally:
            self._write_s += time.monotonic() - self._begun
            self._is_over.set()

    def _try(self, job: _WriteJob) -> CheckpointPart | None:
        """The part, durable; None where storage refuses, which is told."""
        self._refused, self._made = None, []
        try:
            return self._write(job)
        except CheckpointError as error:
            reason = str(error)
        except OSError as error:
            reason = str(storage_error(job.directory, error))
        self._refused = job
        # Room that nobody needs any more: of the files that are this worker's alone.
        for path in self._made:
            with contextlib.suppress(OSError):
                path.unlink()
        if not self._is_abandoned:
            self._on_failed(job.step, reason)
        return None

    def _write(self, job: _WriteJob) -> CheckpointPart:
        records = {}
        for file, staged in sorted(job.files.items()):
            if self._is_abandoned:
                raise PeerError(f"checkpoint of step {job.step}: its generation is over")
            path = job.directory / file
            try:
                self._make_folder(job.directory, path.parent)
                records[file] = self._write_file(path, file, staged)
            except OSError as error:
                raise storage_error(path, error) from error
        self._sync_directories(job)
        return CheckpointPart(
            worker=self._writer.worker,
            rank=self._writer.rank,
            generation=self._writer.generation,
            step=job.step,
            directory=job.directory.name,
            files=records,
            state=job.state,
            model=self._describe_model() if self._writer.rank == 0 else None,
        )

    def _make_folder(self, directory: Path, folder: Path) -> None:
        """A folder of the checkpoint's directory. Never the gate in which that lies: where it has
        been closed this worker's controller is no more the run's."""
        if not self._writer.fence:
            directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)

    def _describe_model(self) -> ModelDescription:
        names = self._names
        return ModelDescription(names.describe(), dict(names.model_files), names.keep_float32)

    def _write_file(self, path: Path, file: str, staged: list[_Staged]) -> FileRecord:
        """Write, make durable and read back this worker's bytes of one file."""
        flags = os.O_RDWR | os.O_CREAT
        layout = self._layouts.get(file)
        layout_is_own = layout is None
        if layout is None:
            layout = plan_layout(item.shape for item in staged)
            flags |= os.O_EXCL
            writes_header = True
        else:
            # All workers plan a shared file alike, from the model alone, so each may write its
            # part without asking the others. Whoever holds the file's first row, or first piece,
            # writes the header: exactly one worker does.
            writes_header = any(item.is_first(layout) for item in staged)
        header = (len(layout.header), digest(layout.header)) if writes_header else None
        entries = tuple(item.entry(layout) for item in staged)
        for entry, item in zip(entries, staged, strict=True):
            refuse_not_finite(path.parent.parent.name, entry.label, item.data, entry.dtype)
        with opened(path, flags) as fd:
            if layout_is_own:
                self._made.append(path)
            if header is not None:
                write_at(fd, layout.header, 0)
            for entry, item in zip(entries, staged, strict=True):
                write_at(fd, item.data, entry.offset)
            # The page cache would answer with what was just written; a bad disk shows itself only
            # when the bytes come from storage. So they are dropped from the cache first.
            sync_file(fd)
            read_back(path, fd, entries, header)
        return FileRecord(layout.num_bytes, None, header, entries)

    def _sync_directories(self, job: _WriteJob) -> None:
        """Make the names durable, from the checkpoint's folders up to the root."""
        # fsync of a file keeps its bytes, not the entry in its directory by which it is found.
        folders = {job.directory.parent, self._root}
        for file in job.files:
            folder = (job.directory / file).parent
            folders |= {folder, folder.parent}
        for folder in sorted(folders):
            if folder.is_dir():
                sync_directory(folder)
