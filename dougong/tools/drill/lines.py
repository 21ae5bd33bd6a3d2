"""What schedules have come to: a line of JSON for each, and their sum."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dougong.launcher.agent.here.code import code_of
from dougong.records.jsonl import JsonLines
from dougong.tools.drill.score import ScoredFault

_ACCELERATORS, _FAMILIES = ("cpu",), ("qwen3_moe",)
_DIGEST_BYTES = 8
_TOLD = 5


@dataclass(frozen=True)
class Rehearsal:
    """One schedule's line. `bits`: what differs from the undisturbed run, in words; `left`: what
    was left behind; `is_hung`: it had to be ended. `load`: of the machine, at its end; `ended`: by
    the wall clock, UTC.

    `digest`: of final weights, optimizer state and what each step has trained on; `code`: of the
    software that computed it. `evidence`: where its run lies, empty where all was as it should be;
    `again`: the command that does this schedule once more.
    """

    key: str
    planned: tuple[str, ...]
    verdicts: tuple[ScoredFault, ...]
    bits: str
    is_equal: bool
    is_hung: bool
    left: tuple[str, ...]
    seconds: float
    load: float
    ended: str = ""
    digest: str = ""
    code: str = ""
    evidence: str = ""
    again: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all has come, and nothing was lost, left or misnamed."""
        has_come = len(self.verdicts) == len(self.planned)
        named = has_come and all(verdict.is_right for verdict in self.verdicts)
        return self.is_equal and named and not self.is_hung and not self.left

    def to_json(self) -> dict[str, Any]:
        """As its line of JSON has it."""
        values = {name: value for name, value in vars(self).items() if name != "verdicts"}
        faults = [verdict.to_json() for verdict in self.verdicts]
        return {**values, "is_good": self.is_good, "faults": faults}


@dataclass(frozen=True)
class Summary:
    """Counts of schedules, and of the faults in them. `dirty`: schedules that left something;
    `failed`: keys of those that are not as they should be."""

    asked: int
    done: int
    equal: int
    hung: int
    dirty: int
    faults: int
    right: int
    failed: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether all that was asked is done, and as it should be."""
        all_done = self.done == self.asked == self.equal and self.faults == self.right
        return all_done and not (self.hung or self.dirty or self.failed)

    @property
    def words(self) -> str:
        """One line."""
        text = (
            f"{self.done} of {self.asked} schedules done: {self.equal} with the bits and samples "
            f"of the undisturbed run, {self.hung} hung, {self.dirty} left something; "
            f"{self.right} of {self.faults} faults named right"
        )
        if self.failed:
            more = ", ..." if len(self.failed) > _TOLD else ""
            text += f"; {len(self.failed)} failed: {', '.join(self.failed[:_TOLD])}{more}"
        if self.done < self.asked:
            text += f"; {self.asked - self.done} left: the same command goes on"
        return text


@dataclass
class Lines:
    """The file of them. `done`: by key the newest line of each schedule that this software has
    done; `other`: keys of lines that another one has written, which do not count; `is_torn`: the
    last line is not whole, as of a proof that was killed: its schedule is not done.

    RecordError names a line that is none.
    """

    path: Path
    code: str
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    is_torn: bool = False

    def __post_init__(self) -> None:
        self._file = JsonLines(self.path)
        for row in self._file.read():
            if row.get("code") == self.code:
                self.done[row["key"]] = row
            else:
                self.other.append(str(row.get("key")))
        with contextlib.suppress(FileNotFoundError):
            self.is_torn = self.path.read_bytes()[-1:] not in (b"", b"\n")

    def add(self, rehearsal: Rehearsal) -> None:
        """StorageError where it cannot be written whole."""
        self.done[rehearsal.key] = rehearsal.to_json()
        self._file.append(self.done[rehearsal.key])

    def summary(self, keys: Sequence[str]) -> Summary:
        """What these schedules have come to."""
        rows = [self.done[key] for key in keys if key in self.done]
        faults = list(itertools.chain.from_iterable(row["faults"] for row in rows))
        return Summary(
            asked=len(keys),
            done=len(rows),
            equal=_count(row["is_equal"] for row in rows),
            hung=_count(row["is_hung"] for row in rows),
            dirty=_count(row["left"] for row in rows),
            faults=len(faults),
            right=_count(fault["is_right"] for fault in faults),
            failed=tuple(row["key"] for row in rows if not row["is_good"]),
        )


def _count(found: Iterable[object]) -> int:
    return sum(map(bool, found))


def digest_of_software() -> str:
    """Of the source that computes the small job, and of the libraries that it stands on: what was
    done by another one proves nothing of this one."""
    code = {name: one.digests for name, one in code_of(_FAMILIES, _ACCELERATORS).items()}
    versions = [version("torch"), version("transformers"), platform.python_version()]
    text = json.dumps([code, versions], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
