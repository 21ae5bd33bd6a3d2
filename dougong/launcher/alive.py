"""A run has one controller: nobody begins or goes on with one whose controller lives, or may."""

from __future__ import annotations

import sys
from pathlib import Path

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import AliveError
from dougong.launcher.client import how_to_end
from dougong.launcher.presence import Presence, look
from dougong.records.directory import RunDir
from dougong.ui.next_step import typed


def refuse_if_alive(
    run_dir: RunDir, takes_over: bool = False, deadlines: Deadlines = DEADLINES
) -> None:
    """AliveError when a controller of this run lives, or may: two at once would spoil it.
    `takes_over`: the user says that one which cannot be reached is dead."""
    known = run_dir.read_controller()
    if known is None:
        return
    path, who = run_dir.path, f"controller process {known.pid} on {known.machine}"
    match look(run_dir, deadlines):
        case Presence.ALIVE:
            raise AliveError(f"{path}: this run is alive ({who}); `dougong stop {path}` ends it")
        case Presence.SILENT:
            raise AliveError(
                f"{path}: this run is alive ({who}), and does not answer: it is stopped or hangs; "
                f"{how_to_end(known)}"
            )
        case Presence.UNKNOWN if not takes_over:
            raise AliveError(
                f"{path}: this run may be alive: {who} cannot be reached from here, and two at "
                f"once would spoil it; look there, and when that process is dead: "
                f"{_taking_over(path)}"
            )
        case _:
            return


def _taking_over(path: Path) -> str:
    """The command that replaces a controller which is dead."""
    if sys.argv[1:2] == ["start"]:
        return typed((Path(sys.argv[0]).name, *sys.argv[1:], "--take-over"))
    return f"dougong resume {path} --take-over"
