"""Who may change a run's checkpoints: the controller whose gate is open. Imports no torch.

root/pending/3/   the gate of the run's third controller (`records.lease`)

Unfinished checkpoints lie in the gate, and each change of the committed ones is one rename through
it: a commit leaves it, a deletion goes into it, and what is set aside passes it. Whoever follows a
controller empties and removes its gate, before it looks for a checkpoint to go on from. From then
on each such rename fails where it is carried out, in the file system or on its server, also one
that the former controller was about to make when it fell asleep: the name that it was to move is
gone, or the folder that was to take it. What it had committed before is there, and is found.

Nobody but `open_gate` makes a gate, so that none comes back.
"""

from __future__ import annotations

import errno
from pathlib import Path

from dougong.checkpoint.directories import PENDING, SET_ASIDE, gate_of, next_folder
from dougong.checkpoint.disk import storage_error, sync_directory
from dougong.errors import CheckpointError

TRASH = "trash-"
ASIDE = "aside-"
_TRIES = 1000


def open_gate(root: Path, fence: int) -> None:
    """Close the gates of all lower numbers, and have one's own. CheckpointError where the storage
    refuses."""
    own = gate_of(root, fence)
    try:
        # Never the run directory: one that is away comes back whole.
        for folder in (root, own.parent, own):
            folder.mkdir(exist_ok=True)
        for path in list((root / PENDING).iterdir()):
            _close_lower(root, path, fence)
        sync_directory(root / PENDING)
    except OSError as error:
        raise storage_error(own, error) from error


def _close_lower(root: Path, path: Path, fence: int) -> None:
    own = gate_of(root, fence)
    if not path.name.isdecimal():
        _move_out(root, path, own)  # an earlier release had no gates
    elif int(path.name) < fence:
        _close(root, path, own)


def _close(root: Path, gate: Path, own: Path) -> None:
    # One of its workers may begin another file while it is emptied; without the folder none can.
    for _ in range(_TRIES):
        try:
            for path in list(gate.iterdir()):
                _move_out(root, path, own)
            gate.rmdir()
        except FileNotFoundError:
            return  # a third controller was quicker
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise CheckpointError(f"{gate}: fills again and again: who writes there?")


def _move_out(root: Path, path: Path, own: Path) -> None:
    """Deleted later, but for what somebody wished to keep."""
    target = own / _trash_name(path, own)
    if path.name.startswith(ASIDE):
        folder = next_folder(root / SET_ASIDE)
        folder.mkdir(parents=True)
        target = folder / path.name.removeprefix(ASIDE)
    try:
        path.rename(target)
    except FileNotFoundError:
        return  # its owner has just moved it


def _trash_name(path: Path, own: Path) -> str:
    """A free one. Trash keeps its name, from one controller to the next."""
    name = path.name if path.name.startswith(TRASH) else f"{TRASH}{path.parent.name}-{path.name}"
    free, number = name, 1
    while (own / free).exists():
        number += 1
        free = f"{name}.{number}"
    return free
