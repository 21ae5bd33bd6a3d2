"""What a conformance report holds, as it lies in `conformance.json`. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from dougong.records.machine import Machine

FILE = "conformance.json"
CUT_SHORT_FILE = "cut-short.json"
"""Of a report that somebody has cut short; an earlier whole one stays beside it."""
COPIES = "copies"
"""The group on which all others rest."""
FORMAT = 3
"""Raised with every change of the file's form that a reader must know of."""

Grade = Literal["sound", "unsound", "not run"]
"""`not run`: what the check needs is not here, and is named; that decides nothing."""
Native = Literal["native", "composed", "missing"]
"""Of an operator: a kernel of the device; made of other operators; neither, or run on the host."""

Verdict = Literal["sound", "unsound", "none"]
"""`none`: cut short before anything was found wrong."""
_SIGNALLED = 128
"""A shell's status of what a signal has ended, less the signal's number."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Deviation(_Frozen):
    """The largest error of one direction in one precision, as a part of the values' size, and the
    most that is allowed. `tf32`: allowed only for products that read ten bits of a mantissa."""

    dtype: str
    direction: Literal["forward", "backward"]
    error: float
    tolerance: float
    tf32: bool = False


class Speedup(_Frozen):
    """How many times as fast as the same of plain operators, forward and backward, in float32 at
    the check's small sizes: the median of `pairs` that were timed in turn, and the quartiles
    between which half of them lie."""

    times: float
    low: float
    high: float
    pairs: int


class OperatorFacts(_Frozen):
    """What was found of one operator.

    calls: the operators that it is made of here, forward and backward; deterministic: the same bits
    every time (None: never computed); moves_with: what a row's bits depend on beside the row;
    speed: against the composed form (None: nothing plainer is there to compare it with).
    """

    form: Native = "missing"
    calls: tuple[str, ...] = ()
    deterministic: bool | None = None
    moves_with: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    speed: Speedup | None = None


class SegmentFacts(_Frozen):
    """One segment of a model, forward and backward, against the processor's."""

    name: str
    error: float
    tolerance: float
    words: str = ""

    @property
    def departs(self) -> bool:
        return bool(self.words)


class CheckOutcome(_Frozen):
    """What became of one check.

    judges: the operator or method that it names; words: what is wrong, one sentence for each thing;
    remarks: what is worth knowing and no fault; follows: operators found unsound by checks of their
    own that this one is made of, so that it says nothing more; segments: of a model, in their
    order.
    """

    name: str
    group: str
    judges: str
    grade: Grade
    words: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    operator: OperatorFacts | None = None
    follows: tuple[str, ...] = ()
    segments: tuple[SegmentFacts, ...] = ()

    @property
    def is_culprit(self) -> bool:
        """Unsound by itself, not because of something that is named elsewhere."""
        return self.grade == "unsound" and not self.follows


_FOLLOWS = ("verdict", "exit_status")


class Conformance(_Frozen):
    """The whole report. `device`: facts of the accelerator; `model`: which one was tried, empty
    where none was; `wall`: when (ISO 8601, UTC); `cut_short`: the check that was under way when
    somebody ended the command, empty where all have been made; `signal`: by which signal (its
    number, 0: by none).

    `verdict` and `exit_status` (the command's) follow from the rest, and are written with it."""

    format: int = FORMAT
    accelerator: str
    device: dict[str, str]
    machine: Machine
    wall: str
    outcomes: tuple[CheckOutcome, ...]
    model: str = ""
    cut_short: str = ""
    signal: int = 0

    @model_validator(mode="before")
    @classmethod
    def _without_what_follows(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if name not in _FOLLOWS}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        if self.unsound:
            return "unsound"
        return "none" if self.cut_short else "sound"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_status(self) -> int:
        if self.signal:
            return _SIGNALLED + self.signal
        return 0 if self.is_sound else 1

    @property
    def culprits(self) -> tuple[CheckOutcome, ...]:
        """The checks to begin with."""
        return tuple(outcome for outcome in self.outcomes if outcome.is_culprit)

    @property
    def unsound(self) -> tuple[CheckOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.grade == "unsound")

    @property
    def is_sound(self) -> bool:
        """Whether all was looked at and nothing found wrong."""
        return not self.unsound and not self.cut_short

    @property
    def file(self) -> str:
        """The name under which it is kept."""
        return CUT_SHORT_FILE if self.cut_short else FILE

    def group(self, name: str) -> tuple[CheckOutcome, ...]:
        """The outcomes of one group, in the order of their checks."""
        return tuple(outcome for outcome in self.outcomes if outcome.group == name)


def with_causes(outcomes: tuple[CheckOutcome, ...]) -> tuple[CheckOutcome, ...]:
    """The same, where each unsound outcome names the unsound operators that it is made of.

    Those are at fault by themselves: all that they call is sound. (A gather's gradient is a
    scatter, and the other way round: of two that call each other both are named.)
    """
    guilty = {o.judges for o in outcomes if o.grade == "unsound" and o.operator is not None}
    roots = {o.judges for o in outcomes if o.grade == "unsound" and not _causes(o, guilty)}
    moved = tuple(o.judges for o in outcomes if o.grade == "unsound" and o.group == COPIES)
    return tuple(_with_causes(outcome, roots, moved) for outcome in outcomes)


def _causes(outcome: CheckOutcome, guilty: set[str]) -> set[str]:
    """Which of the guilty operators an outcome's own calls."""
    if outcome.operator is None:
        return set()
    others = guilty - {outcome.judges}
    return {name for name in others if _calls(outcome.operator, name)}


def _calls(operator: OperatorFacts, name: str) -> bool:
    """An in-place form is another name of the same operator."""
    return any(called.startswith(name) for called in operator.calls)


def _with_causes(outcome: CheckOutcome, roots: set[str], copies: tuple[str, ...]) -> CheckOutcome:
    if outcome.grade != "unsound" or outcome.operator is None:
        return outcome
    # Copies bring an operator's values and take its results: where they are wrong, all is.
    causes = sorted(_causes(outcome, roots) | set(copies))
    return outcome.model_copy(update={"follows": tuple(causes)})
