"""Checkpoints that a run goes on without: moved out of every reader's sight, and kept.

root/set-aside/1/step-000080   by the first resume that began before it; 2, 3, ... by later ones
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dougong.checkpoint.directories import SET_ASIDE
from dougong.checkpoint.disk import storage_error, sync_directory


def set_aside(root: Path, checkpoints: Sequence[Path]) -> Path:
    """Move these checkpoints of `root` to a new folder, which is returned. None is read again by a
    run, and none is ever deleted; whoever moves one back has it again.

    Raises CheckpointError where the storage refuses: those that come first in `checkpoints` may
    have been moved then.
    """
    folder = next_folder(root / SET_ASIDE)
    try:
        folder.mkdir(parents=True)
        for path in checkpoints:
            path.rename(folder / path.name)
        sync_directory(folder)
        sync_directory(root)
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def next_folder(parent: Path) -> Path:
    """The first of `parent/1`, `parent/2`, ... after all that are there."""
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    taken = [int(name) for name in names if name.isdecimal()]
    return parent / str(max(taken, default=0) + 1)
