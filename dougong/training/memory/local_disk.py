"""Snapshots on a node's own disk: the newest part of each worker there, for one that is started
anew on the same node.

    DIR/dougong-snapshots/<run>/<life>/<worker>-<step>.g<generation>.part

A file is a line of JSON, padded to a fixed multiple of bytes, and the part's memory as it is. It
is written under another name, beside training, and renamed when it is on the disk. Which worker has
written it is of no account to who reads it: what counts is which tensors it holds.

A *life* is that of a controller. What is left by an earlier one may belong to steps that somebody
has had taken back, or to another run of the same name, so it is never read, and is deleted. Nothing
else in DIR is looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint.disk import digest, opened, read_into, write_at
from dougong.deadlines import DEADLINES
from dougong.errors import CheckpointError
from dougong.training.memory.holdings import HeldTensor, Holding, Moment
from dougong.training.memory.part import StatePart, as_tensor, lay_out
from dougong.training.memory.source import StateKey

FOLDER = "dougong-snapshots"
"""What is ours in the folder that a job names."""
NUM_KEPT = 2
"""Parts of a worker: workers write at their own pace, and only a step that all have is whole."""
_BLOCK = 4096
_MOST_HEAD_BYTES = 256 << 20
_SUFFIX = ".part"


@dataclass(frozen=True)
class _PartFile:
    """A file, as its head describes it: where each tensor lies."""

    path: Path
    holding: Holding
    places: dict[StateKey, tuple[int, HeldTensor]]


class LocalDisk:
    """One worker's files, and what its neighbours of the node have left. Trouble with the disk
    costs a snapshot there, and is told once; it never ends a worker."""

    def __init__(self, root: Path, run_dir: Path, life: str, worker: str) -> None:
        """`root`: the folder that the job names; `run_dir`: by which the run is told from others on
        this node."""
        self._worker = worker.replace("/", "-")
        run = f"{run_dir.name}-{digest(str(run_dir.absolute()).encode())[:8]}"
        self._run_folder = root / FOLDER / run
        self._folder = self._run_folder / life
        self._thread = ThreadPoolExecutor(1, "dougong-local-disk")
        self._writing: Future[None] | None = None
        self._found: list[_PartFile] = []
        self._has_warned = False

    def go_over(self, life: str) -> None:
        """From now on this is the life: another controller's, which this worker has outlived the
        one before to serve."""
        self._folder = self._run_folder / life

    def is_busy(self) -> bool:
        """Whether a part is being written: its memory must stay as it is."""
        return self._writing is not None and not self._writing.done()

    def write(self, part: StatePart) -> None:
        """Begin to write a whole part, unless one is being written still: then this one is left
        out. Its memory stays as it is until `is_busy` says no more."""
        if not self.is_busy():
            self._writing = self._thread.submit(self._write, part)

    def clear(self) -> None:
        """Delete this worker's files: its work is done."""
        if self._writing is not None:
            self._writing.cancel()
        with self._telling():
            for path in self._folder.glob(f"{self._worker}-*{_SUFFIX}"):
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete what all workers of this node have written in this life: none of it counts."""
        if self._writing is not None and not self._writing.cancel():
            with contextlib.suppress(FutureTimeout):  # else its file would come after all
                self._writing.exception(DEADLINES.leave_s)
        with self._telling():
            for path in self._folder.glob(f"*{_SUFFIX}"):
                path.unlink(missing_ok=True)

    def holdings(self) -> list[Holding]:
        """What files of this life hold, this worker's and others'; looked up anew."""
        self._found = []
        with self._telling():
            for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
                found = _read_head(path)
                self._found += [] if found is None else [found]
        return [found.holding for found in self._found]

    def read(self, moment: Moment, key: StateKey) -> Tensor:
        """One tensor of a file that `holdings` has found. Raises `CheckpointError`."""
        for found in self._found:
            if found.holding.moment == moment and key in found.places:
                offset, held = found.places[key]
                return _read(found.path, offset, held)
        raise CheckpointError(f"{self._folder}: no file holds {key} of step {moment.step}")

    def _write(self, part: StatePart) -> None:
        with self._telling():
            self._forget_other_lives()
            self._folder.mkdir(parents=True, exist_ok=True)
            moment = part.moment
            name = f"{self._worker}-{moment.step:012d}.g{moment.generation}"
            unfinished = self._folder / f".{name}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with opened(unfinished, flags) as fd:
                head = _head_of(part)
                write_at(fd, head, 0)
                write_at(fd, part.memory.numpy().data, len(head))
                os.fsync(fd)
            unfinished.rename(self._folder / f"{name}{_SUFFIX}")
            for old in sorted(self._folder.glob(f"{self._worker}-*{_SUFFIX}"))[:-NUM_KEPT]:
                old.unlink(missing_ok=True)

    def _forget_other_lives(self) -> None:
        if not self._run_folder.is_dir():
            return
        for folder in self._run_folder.iterdir():
            if folder != self._folder and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                print(
                    f"warning: {self._folder}: {error.strerror or error}; snapshots on this disk "
                    "(fault.snapshots.local) are left out",
                    file=sys.stderr,
                )


def _head_of(part: StatePart) -> bytes:
    """A line of JSON with its digest, and blanks up to a whole number of blocks."""
    body = json.dumps(part.holding("disk").to_json(), separators=(",", ":"))
    text = f'{{"digest":"{digest(body.encode())}","body":{body}}}'.encode()
    return text + b" " * (-(len(text) + 1) % _BLOCK) + b"\n"


def _read_head(path: Path) -> _PartFile | None:
    """None for a file that is not whole, or is damaged."""
    try:
        with path.open("rb") as file:
            line = file.readline(_MOST_HEAD_BYTES)
            num_bytes = os.fstat(file.fileno()).st_size
        raw = json.loads(line)
        body = json.dumps(raw["body"], separators=(",", ":"))
        if digest(body.encode()) != raw["digest"]:
            return None
        holding = Holding.from_json(raw["body"])
    except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError):
        return None
    layout = lay_out((held.group, held.shape) for held in holding.tensors)
    places = {}
    for spot, held in zip(layout, holding.tensors, strict=True):
        places[held.key] = (len(line) + spot.offset, held)
        if len(line) + spot.end > num_bytes:
            return None
    return _PartFile(path, holding, places)


def _read(path: Path, offset: int, held: HeldTensor) -> Tensor:
    data = torch.empty(held.shape.num_bytes, dtype=torch.uint8)
    try:
        with opened(path) as fd:
            read_into(fd, data.numpy().data, offset)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    return as_tensor(data, held.shape)
