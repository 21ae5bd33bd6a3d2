"""The controller's side of checkpoints: commit, find the newest valid one, prune. Imports no torch.

`root` is a run's `checkpoints/`. How a crash at any moment leaves no half of a checkpoint is told
in `commit`; a deletion keeps the same promise in `_delete`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.commit import Additions, commit
from dougong.checkpoint.directories import (
    DAMAGED,
    MANIFEST,
    SET_ASIDE,
    CheckpointPlace,
    gate_of,
    list_committed,
    list_pending,
    next_folder,
)
from dougong.checkpoint.disk import storage_error, sync_directory
from dougong.checkpoint.gate import ASIDE, TRASH, open_gate
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.merge import expected_tensors
from dougong.checkpoint.part import CheckpointPart
from dougong.checkpoint.proof.signing import SigningKey
from dougong.checkpoint.verify import VerifyResult, verify, verify_sizes
from dougong.errors import CheckpointError, SourceError

__all__ = [
    "Additions",
    "CheckpointPart",
    "Known",
    "Pruned",
    "RejectedCheckpoint",
    "VerifyResult",
    "clear",
    "commit",
    "expected_tensors",
    "newest_valid",
    "open_gate",
    "none_is_valid",
    "prune",
    "reject",
    "set_aside",
    "steps_in",
    "valid_one_of",
    "verify",
    "verify_sizes",
]


def newest_valid(
    root: Path,
    on_invalid: Callable[[VerifyResult], None] | None = None,
    threads: int = 2,
    key: SigningKey | None = None,
) -> Path | None:
    """The newest checkpoint all of whose bytes are as written; None when there is none.

    What is found of each newer one, which is not valid, is passed to `on_invalid`, newest first.
    With a `key`, here and below, one that is not signed by it is not valid.
    """
    for place in list_committed(root):
        result = verify(place.path, threads, key)
        if result.ok:
            return place.path
        if on_invalid is not None:
            on_invalid(result)
    return None


def valid_one_of(root: Path, step: int, threads: int = 2, key: SigningKey | None = None) -> Path:
    """The checkpoint of a step, every byte read. Two generations may have saved one step: the newer
    valid one is taken. CheckpointError names those that there are, SourceError where none is of
    that step."""
    results = []
    for place in list_committed(root):
        if place.step == step:
            results.append(verify(place.path, threads, key))
    for result in results:
        if result.ok:
            return result.directory
    if results:
        raise CheckpointError(f"{results[0]}; choose another --step, there are: {steps_in(root)}")
    raise SourceError(f"{root}: no checkpoint of step {step}; there are: {steps_in(root)}")


def none_is_valid(
    root: Path, rejected: Sequence[str], resume: str, key: SigningKey | None = None
) -> CheckpointError:
    """Why a run whose checkpoints are all damaged, or gone, does not begin anew by itself.
    `resume`: the command that goes on with it."""
    run = root.parent
    words = f"dougong verify {run}" + ("" if key is None else f" --key {key.path}")
    what = "the checkpoints that the run had are gone"
    if rejected:
        names = ", ".join(rejected)
        what = f"no checkpoint is valid ({names}; `{words}` says what is wrong)"
    return CheckpointError(
        f"{root}: {what}; mend or mount the storage, then `{resume}`; or begin anew, "
        f"with what is there set aside: `{resume} --from-scratch`"
    )


def steps_in(root: Path) -> str:
    """The steps of which there are checkpoints, in words."""
    steps = dict.fromkeys(place.step for place in reversed(list_committed(root)))
    return ", ".join(map(str, steps)) or "none"


def set_aside(root: Path, checkpoints: Sequence[Path], fence: int = 0) -> Path:
    """Move these checkpoints of `root` to a new folder, which is returned. None is read again by a
    run, and none is ever deleted; whoever moves one back has it again.

    Raises CheckpointError where the storage refuses: those that come first in `checkpoints` may
    have been moved then.
    """
    folder = next_folder(root / SET_ASIDE)
    try:
        folder.mkdir(parents=True)
        for path in checkpoints:
            _move_aside(root, path, folder / path.name, fence)
        sync_directory(folder)
        sync_directory(root)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def _move_aside(root: Path, path: Path, target: Path, fence: int) -> None:
    # Through the gate: where another controller has followed this one, nothing is moved.
    if fence:
        path = path.rename(gate_of(root, fence) / f"{ASIDE}{target.name}")
    path.rename(target)


@dataclass(frozen=True)
class RejectedCheckpoint:
    """One that is not as it was written, or (`is_unread`) cannot be read now. `aside`: where it
    lies since; None where it was left where it was."""

    name: str
    reason: str
    aside: Path | None = None
    is_unread: bool = False

    @property
    def is_left(self) -> bool:
        """Whether it lies there, damaged, for good."""
        return self.aside is None and not self.is_unread


def reject(
    root: Path, results: Sequence[VerifyResult], fence: int = 0, moves: bool = True
) -> tuple[RejectedCheckpoint, ...]:
    """What is told of checkpoints that are not valid. With `moves`, what is damaged is moved to a
    new folder, with a name that says so: nobody takes it for a checkpoint again, and none is ever
    deleted.

    What could not be read may be valid, and stays; so does what is a link or holds somebody's
    files, and what storage does not move: then the reason says that.
    """
    folder = next_folder(root / SET_ASIDE)
    told = []
    for result in results:
        path, reason, aside = result.directory, str(result), None
        if moves and not result.is_unread:
            left, aside = _try_aside(root, path, folder / f"{path.name}{DAMAGED}", fence)
            reason += f"; left there: {left}" if left else ""
        told.append(RejectedCheckpoint(path.name, reason, aside, result.is_unread))
    return tuple(told)


def _try_aside(root: Path, path: Path, target: Path, fence: int) -> tuple[str, Path | None]:
    """Why it stays, empty where it does not; and where it lies then."""
    try:
        foreign = _foreign_in(path)
        if foreign:
            return foreign, None
        target.parent.mkdir(parents=True, exist_ok=True)
        _move_aside(root, path, target, fence)
        sync_directory(target.parent)
        sync_directory(root)
    except OSError as error:
        return str(storage_error(path, error)), None
    return "", target


@dataclass(frozen=True)
class Known:
    """What `prune` need not find out. Names in `invalid` are not read again. Names in `trusted`
    (those that this controller committed, read back by their writers, or has read since) are
    checked by size alone, the others wholly. `key`: by which they are signed."""

    trusted: Collection[str] = ()
    invalid: Collection[str] = ()
    key: SigningKey | None = None


NOTHING_KNOWN = Known()


@dataclass(frozen=True)
class Pruned:
    """What `prune` did.

    `kept`: valid ones, newest first. `removed`: directories deleted. `invalid`: damaged ones, left
    for a person to look at. `left`: names of what was to be deleted and is not, and why.
    """

    kept: tuple[Path, ...]
    removed: tuple[Path, ...]
    invalid: tuple[Path, ...]
    left: tuple[tuple[str, str], ...] = ()


def prune(
    root: Path,
    keep: int,
    generation: int | None = None,
    known: Known = NOTHING_KNOWN,
    fence: int = 0,
) -> Pruned:
    """Delete what is older than the newest `keep` valid checkpoints, and what ended generations
    left unfinished.

    An invalid one is neither counted nor deleted: it may be the storage that is ill, and a person
    may want what can be saved of it. `generation` is the running one: older
    generations' unfinished directories go, and its own that a later commit of it has overtaken.
    None (nobody runs, or it is not known) leaves them all. What is a link, or holds files that no
    checkpoint has, is somebody's and is left; what storage refuses to delete is told, and tried
    again by the next call. `fence`: the number of this controller,
    whose gate is open; 0 in tools.
    """
    if keep < 1:
        raise CheckpointError(
            f"keep is {keep}: one checkpoint is always kept; set checkpoint.keep to 1 or more"
        )
    valid, invalid = _sort(root, known)
    kept, removed = valid[:keep], valid[keep:]
    if generation is not None:
        removed += _stale(list_pending(root, fence), generation, kept)
    # Only now that enough valid ones are known is anything deleted.
    if not fence:
        gate_of(root, fence).mkdir(exist_ok=True)
    gate = gate_of(root, fence)
    gone, left = _remove_all(gate, removed)
    return Pruned(tuple(kept), tuple(gone), tuple(invalid), tuple(left))


def clear(root: Path, generation: int = 0, fence: int = 0) -> list[tuple[str, str]]:
    """Make room without looking at a checkpoint: delete what generations before this one left
    unfinished in the gate of this controller, and all trash there, also that of the controllers
    before it, which `open_gate` has moved there. What is left, and why.

    Raises OSError where the storage is not to be read.
    """
    gate = gate_of(root, fence)
    _, left = _remove_all(gate, _stale(list_pending(root, fence), generation, ()))
    return left


def _remove_all(gate: Path, paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Delete these, and what lies in the trash; those that are gone, and what is left, and why."""
    gone, left = [], []
    for path in paths:
        reason = _remove(gate, path)
        if reason:
            left.append((path.name, reason))
        else:
            gone.append(path)
    return gone, left + _empty_trash(gate)


def _remove(gate: Path, path: Path) -> str:
    """Delete a directory; why it is left, empty where it is not."""
    try:
        foreign = _foreign_in(path)
        if not foreign:
            _delete(gate, path)
    except OSError as error:
        return str(storage_error(path, error))
    return foreign


def _foreign_in(path: Path) -> str:
    """What of a directory is not a checkpoint's, in words; empty for nothing."""
    if path.is_symlink():
        return f"a link to {os.readlink(path)}"
    own: set[str] | None = None
    with contextlib.suppress(CheckpointError):  # an unfinished one has none
        own = {MANIFEST, *Manifest.load(path).files}
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if found.is_symlink():
            return f"holds {name}, a link"
        if own is not None and not found.is_dir() and name not in own:
            return f"holds {name}, which is no checkpoint's"
    return ""


def _sort(root: Path, known: Known) -> tuple[list[Path], list[Path]]:
    """Committed checkpoints, newest first: the valid ones and the others. Those that would be
    deleted are looked at like the rest: what is damaged must not go."""
    valid: list[Path] = []
    invalid: list[Path] = []
    for place in list_committed(root):
        is_valid = place.path.name not in known.invalid and _is_valid(place.path, known)
        (valid if is_valid else invalid).append(place.path)
    return valid, invalid


def _is_valid(path: Path, known: Known) -> bool:
    # Reading every byte at every save would cost as much as writing them.
    if path.name in known.trusted:
        return verify_sizes(path, known.key).ok
    return verify(path, key=known.key).ok


def _stale(pending: Iterable[CheckpointPlace], generation: int, kept: Iterable[Path]) -> list[Path]:
    """Unfinished directories that nobody will finish.

    An older generation's workers have all ended. The running one commits its steps in order: once
    a later step is a checkpoint, what is left of an earlier one lacks a part that will not come.
    """
    newest = 0
    for path in kept:
        manifest = Manifest.load(path)
        if manifest.generation == generation:
            newest = max(newest, manifest.step)
    return [place.path for place in pending if _is_stale(place, generation, newest)]


def _is_stale(place: CheckpointPlace, generation: int, newest: int) -> bool:
    if place.generation != generation:
        return place.generation < generation
    return place.step < newest


def _delete(gate: Path, path: Path) -> None:
    """Delete a directory, renamed first: half a deletion must not look like a checkpoint. The gate
    is not made where it is gone: then this is not our controller's to delete."""
    trash = gate / f"{TRASH}{path.name}-{path.parent.name}"
    if trash.exists():
        shutil.rmtree(trash)
    path.rename(trash)
    sync_directory(path.parent)
    shutil.rmtree(trash)


def _empty_trash(gate: Path) -> list[tuple[str, str]]:
    """Finish deletions that a crash, or storage, cut short; what is left, and why."""
    left = []
    for path in sorted(gate.glob(f"{TRASH}*")):
        try:
            shutil.rmtree(path)
        except OSError as error:
            left.append((path.name, str(storage_error(path, error))))
    return left
