"""A command of ours as `ray job submit` takes it: it is run on another machine, in another folder,
and finds its cluster there by itself."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dougong.ui.next_step import typed

_BEGINS_RUNS = ("run", "start", "calibrate")


def submission(dashboard: str, run: Path | None, command: Sequence[str] | None = None) -> str:
    """What to type. `dashboard`: its URL; `run`: the run's directory, which a submitted job must be
    told, since it would begin another one; `command`: its words, None: those of this process."""
    words = list(_without_address(command or (Path(sys.argv[0]).name, *sys.argv[1:])))
    named = any(word.partition("=")[0] == "--run-dir" for word in words)
    if run is not None and not named and words[1:2] and words[1] in _BEGINS_RUNS:
        words += ["--run-dir", str(run.absolute())]
    absolute = [_absolute(word, before) for before, word in itertools.pairwise(words)]
    return f"ray job submit --address {shlex.quote(dashboard)} -- {typed([words[0], *absolute])}"


def _without_address(command: Sequence[str]) -> Iterator[str]:
    is_value = False
    for word in command:
        if not is_value and word != "--address" and not word.startswith("--address="):
            yield word
        is_value = word == "--address"


def _absolute(word: str, before: str) -> str:
    """A folder for a run, and any file that is there, is named so that it is found from anywhere.
    `before`: the word before it."""
    option, equals, value = word.partition("=")
    if option == "--run-dir" and equals:
        return f"{option}={Path(value).absolute()}"
    is_path = before == "--run-dir" or (not word.startswith("-") and Path(word).exists())
    return str(Path(word).absolute()) if is_path else word
