"""How a checkpoint's directory is named, inside a run's `checkpoints/` (here: `root`).

root/step-000060          committed
root/step-000060.g2       committed; the name above was taken by another generation's
root/pending/3/step-000060.g2   being written, or left by a fault: never a checkpoint
root/pending/3/trash-...    being deleted; 3: of the third controller (`gate`)
root/set-aside/1/step-000080   committed; the run went on from an earlier one by somebody's wish
root/set-aside/2/step-000040.damaged   it is not as it was written
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.disk import in_the_way
from dougong.errors import SourceError

MANIFEST = "manifest.json"
PENDING = "pending"
SET_ASIDE = "set-aside"
DAMAGED = ".damaged"
MODEL = "model"
INDEX_FILE = f"{MODEL}/model.safetensors.index.json"
_STEP = re.compile(r"step-(\d{6,})(?:\.g(\d+))?")


@dataclass(frozen=True, order=True)
class CheckpointPlace:
    """A checkpoint's directory. Sorts by step, then by generation (0: the name carries none)."""

    step: int
    generation: int
    path: Path


def gate_of(root: Path, fence: int) -> Path:
    """Where the controller of this number has what is not committed. 0: nobody is the controller,
    as in tools."""
    return root / PENDING / str(fence) if fence else root / PENDING


def pending_directory(root: Path, step: int, generation: int, fence: int = 0) -> Path:
    """Where the workers of a generation write a step's state."""
    return gate_of(root, fence) / f"step-{step:06d}.g{generation}"


def committed_directory(root: Path, step: int, generation: int) -> Path:
    """The first free name for a committed checkpoint."""
    plain = root / f"step-{step:06d}"
    return root / f"step-{step:06d}.g{generation}" if plain.exists() else plain


def next_folder(parent: Path) -> Path:
    """The first of `parent/1`, `parent/2`, ... after all that are there."""
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    taken = [int(name) for name in names if name.isdecimal()]
    return parent / str(max(taken, default=0) + 1)


def list_committed(root: Path) -> list[CheckpointPlace]:
    """Every directory that claims to be a checkpoint, newest first."""
    return sorted(_places(root), reverse=True)


def refuse_no_folder(root: Path) -> None:
    """SourceError where a file, or a link to nothing, stands in the place of a run's checkpoints:
    to read it as if there were none would hide that they are gone."""
    words = in_the_way(root)
    if words:
        raise SourceError(f"{root}: {words}, then this command again")


def list_pending(root: Path, fence: int = 0) -> list[CheckpointPlace]:
    """Every directory of that controller that is being written or was left so, newest first."""
    return sorted(_places(gate_of(root, fence)), reverse=True)


def step_of(directory: Path) -> int | None:
    """The step that a directory's name claims; None for a name that claims none."""
    match = _STEP.fullmatch(directory.name)
    return int(match.group(1)) if match else None


def generation_of(directory: Path) -> int:
    """The generation that a directory's name claims; 0 for a name that claims none."""
    match = _STEP.fullmatch(directory.name)
    return int(match.group(2) or 0) if match else 0


def size_of(directory: Path) -> int:
    """Bytes of all files."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _places(folder: Path) -> list[CheckpointPlace]:
    if not folder.is_dir():
        return []
    found = [(path, _STEP.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir()]
    return [CheckpointPlace(int(m.group(1)), int(m.group(2) or 0), path) for path, m in found if m]
