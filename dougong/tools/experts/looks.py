"""What `dougong verify` says of experts: of one folder or checkpoint, and beside another."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.directories import list_committed
from dougong.errors import CheckpointError, ModelError, SourceError
from dougong.tools.experts.against import compare
from dougong.tools.experts.census import census, census_words
from dougong.tools.experts.contents import contents_of

_SHOWN = 20


@dataclass(frozen=True)
class ExpertsLook:
    """What was found, in lines, and whether it is as it should be. `is_read`: whether it could be
    read at all."""

    is_good: bool
    lines: tuple[str, ...]
    is_read: bool = True


def look_at_experts(path: Path, allow_alike: bool) -> ExpertsLook:
    """Whether all are there. `allow_alike`: two may be the same. Raises SourceError for what is
    neither a checkpoint nor a Hugging Face folder."""
    try:
        contents = contents_of(path)
        flaws = [one for one in census(contents) if not (one.is_alike and allow_alike)]
    except SourceError:
        raise
    except (CheckpointError, ModelError) as error:
        return ExpertsLook(False, (f"{path}: not valid: {error}",), is_read=False)
    if not flaws:
        return ExpertsLook(True, (f"{path}: {census_words(contents, allow_alike)}",))
    lines = [f"{path}: {contents.num_experts}, but not all is well:"]
    lines += [f"  {flaw}" for flaw in flaws]
    if all(flaw.is_alike for flaw in flaws):
        command = f"dougong verify {shlex.quote(str(path))} --allow-alike"
        lines.append(
            "next: where it was made by copying a dense model's layers, that is as it should be: "
            f"{command}; else convert it again"
        )
    return ExpertsLook(False, tuple(lines))


def look_against(path: Path, other: Path) -> ExpertsLook:
    """Whether another folder, checkpoint, or a run's newest checkpoint, holds the same. Raises
    SourceError for what is none of them."""
    newest = list_committed(other / "checkpoints")
    try:
        comparison = compare(path, newest[0].path if newest else other)
    except SourceError:
        raise
    except (CheckpointError, ModelError) as error:
        return ExpertsLook(False, (f"--against: {error}",))
    return ExpertsLook(comparison.equal, tuple(comparison.lines(_SHOWN)))
