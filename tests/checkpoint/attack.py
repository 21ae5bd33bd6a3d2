"""A repository of three checkpoints, damaged thousands of times, and what our readers made of each damage.

What a checkpoint was is kept apart from any digest of ours: the bytes of its files, as whoever opens them finds them.
So it is not our own word that says whether a damage changed anything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch
from dougong.checkpoint.commit import Additions, commit
from dougong.checkpoint.directories import MANIFEST, list_committed
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.repository import newest_valid
from dougong.checkpoint.verify import verify
from dougong.errors import CheckpointError
from tests.checkpoint.corruption import Kind, Scene
from tests.checkpoint.saving import names_of, share, state_of, tiny_model, write_parts

STEPS = (20, 40, 60)
DEADLINE_S = 30.0
"""Of one damage and all that is asked of it, on a machine that has much else to do."""

Contents = dict[str, Any]


@dataclass(frozen=True)
class Repository:
    """A run's `checkpoints/` as it was written; never touched again. `contents`: what each checkpoint is; `tensors`:
    what a reader gives of each, as bytes."""

    root: Path
    names: Names
    contents: Mapping[str, Contents]
    tensors: Mapping[str, Mapping[tuple[str, str], bytes]]


def make_repository(root: Path) -> Repository:
    """Three checkpoints of one model with other values, and one whose save never ended."""
    model = tiny_model("gpt_oss", num_hidden_layers=1, hidden_size=32, intermediate_size=48, vocab_size=64)
    names = names_of(model)
    state = state_of(model, names)
    for step in STEPS:
        chance = torch.Generator().manual_seed(step)
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.normal_(generator=chance)
        parts = write_parts(root, names, [share(state, worker, 2) for worker in range(2)], step)
        commit(root, step, 1, parts, Additions({"seed": 1234, "parent": f"step-{step - 20:06d}"}))
    write_parts(root, names, [share(state, worker, 2) for worker in range(2)], STEPS[-1] + 20)
    places = [place.path for place in list_committed(root)]
    contents = {path.name: contents_of(path) for path in places}
    return Repository(root, names, contents, {path.name: tensors_of(path, names) for path in places})


def contents_of(directory: Path, follows: bool = False) -> Contents:
    """What lies in a checkpoint, as whoever opens its names finds it. A link is no file of it, unless one `follows`."""
    found: Contents = {}
    for folder, folders, files in os.walk(directory, followlinks=True):
        for name in (*folders, *files):
            path = Path(folder) / name
            is_link = path.is_symlink() and not follows
            what = "a link" if is_link else _what_is(path)
            found[path.relative_to(directory).as_posix()] = what
    return found


def _what_is(path: Path) -> Any:
    try:
        if path.is_dir():
            return "a folder"
        if not path.is_file():
            return "no file"
        if path.stat().st_size > 1 << 30:
            return "a hole"
        data = path.read_bytes()
    except OSError as error:
        return str(error)
    # Of a manifest the values count: 1e-05 and 1E-05, one bit apart, are one number.
    return _values(data) if path.name == MANIFEST else data


def _values(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


def is_changed(original: Contents | None, directory: Path, follows: bool = False) -> bool:
    """Whether a checkpoint is another one than that of this name was: a file of it, or one more in `model/`."""
    if original is None:
        return True
    now = contents_of(directory, follows)
    if any(now.get(name) != what for name, what in original.items()):
        return True
    return any(name.startswith("model/") and name not in original for name in now)


def tensors_of(directory: Path, names: Names) -> dict[tuple[str, str], bytes]:
    """All that a worker would take from a checkpoint, by the worker's own reader."""
    with CheckpointReader(directory, names) as reader:
        keys = [(MODEL_GROUP, name) for name, _ in names.tensors()]
        for group in sorted({entry.group for _, entry in reader.manifest.entries()} - {MODEL_GROUP}):
            keys += [(group, name) for name in reader.names(group)]
        return {key: reader.read(*key).numpy().tobytes() for key in keys}


@contextmanager
def room() -> Iterator[Path]:
    """A folder for `Attack.room`, in memory where there is such a place: thousands of folders are made and removed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="dougong-") as name:
        yield Path(name) / "room"


@dataclass(frozen=True)
class Outcome:
    """What became of one damage.

    `changed`: checkpoints that are not any more what they were. `silent`: who accepted one of these, and which.
    `wrong`: what else should not be: an error that nobody expects, a valid checkpoint that was not found, a hang.
    """

    kind: str
    number: int
    changed: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Attack:
    """Damages of some kinds in turn, each a function of `seed` and its number; done in `room`, an empty folder."""

    repository: Repository
    kinds: Mapping[str, Kind]
    room: Path
    seed: int = 0

    def run(self, number: int) -> Outcome:
        """Do one damage to a copy, and ask all readers."""
        kind = list(self.kinds)[number % len(self.kinds)]
        scene = self._scene(number)
        self.kinds[kind](scene)
        begun = time.perf_counter()
        outcome = self._judge(kind, number, scene.root)
        seconds = time.perf_counter() - begun
        shutil.rmtree(self.room)
        return Outcome(kind, number, *outcome, seconds)

    def _scene(self, number: int) -> Scene:
        if self.room.exists():
            shutil.rmtree(self.room)
        root = Path(shutil.copytree(self.repository.root, self.room / "checkpoints"))
        chance = Random(f"{self.seed}/{number}")
        victim, other = chance.sample([f"step-{step:06d}" for step in STEPS], 2)
        unfinished = root / "pending" / f"step-{STEPS[-1] + 20:06d}.g1"
        return Scene(root, root / victim, root / other, chance, unfinished=unfinished)

    def _judge(self, kind: str, number: int, root: Path) -> tuple[tuple[str, ...], ...]:
        originals = self.repository.contents
        places = [place.path for place in list_committed(root)]
        changed = [path for path in places if is_changed(originals.get(path.name), path)]
        silent, wrong = [], []
        for path in changed:
            silent += [f"verify: {path.name}"] if verify(path, threads=1).ok else []
            silent += [f"reader: {path.name}"] if self._reads_wrongly(path) else []
        found = newest_valid(root, threads=1)
        whole = [path for path in places if path not in changed]
        if found in changed:
            silent.append(f"newest_valid: {found.name}")
        elif found != next(iter(whole), None):
            wrong.append(f"newest_valid gave {found}, and the newest whole one is {next(iter(whole), None)}")
        return tuple(path.name for path in changed), tuple(silent), tuple(wrong)

    def _reads_wrongly(self, path: Path) -> bool:
        """Whether the reader gives of a checkpoint what never was in one of its name."""
        try:
            given = tensors_of(path, self.repository.names)
        except CheckpointError:
            return False
        return given != self.repository.tensors.get(path.name)


def watched(run: Callable[[int], Outcome], numbers: Sequence[int], deadline_s: float = DEADLINE_S) -> Iterator[Outcome]:
    """The outcomes of `run` for these numbers, by a process that may hang: one that does not answer in time is killed,
    and the next number is another process's."""
    left = list(numbers)
    while left:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_answer, args=(run, left, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            while left:
                yield _next(ours, left[0], deadline_s)
                left.pop(0)
        except _Gone as gone:
            yield Outcome("?", left.pop(0), wrong=(str(gone),))
        finally:
            process.kill()
            process.join()


class _Gone(Exception):
    """The process does not answer."""


def _next(ours: Connection, number: int, deadline_s: float) -> Outcome:
    if not ours.poll(deadline_s):
        raise _Gone(f"number {number} hangs: no answer within {deadline_s:.0f} s")
    try:
        outcome: Outcome = ours.recv()
    except EOFError:
        raise _Gone(f"number {number} ended its process") from None
    return outcome


def _answer(run: Callable[[int], Outcome], numbers: Sequence[int], pipe: Connection) -> None:
    torch.set_num_threads(1)
    for number in numbers:
        try:
            outcome = run(number)
        except Exception as error:
            outcome = Outcome("?", number, wrong=(f"number {number}: {type(error).__name__}: {error}",))
        pipe.send(outcome)


def attack(attack: Attack, numbers: Sequence[int]) -> Iterator[Outcome]:
    """Every damage of these numbers, watched."""
    return watched(partial(Attack.run, attack), numbers)
