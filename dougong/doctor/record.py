"""What an examination of the nodes has come to, as it lies in a file. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FILE = "doctor.json"
FORMAT = 1
"""Raised with every change of the file's form that a reader must know of."""

HealthGrade = Literal["sound", "failed", "not run"]
"""`not run`: there is nothing to look at, or nobody to compare with; that decides nothing."""


class _Unchanging(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Symptom(_Unchanging):
    """Something wrong. `nodes`: those that are named for it; none where nobody can say which of
    them it is. `words`: what was found, with the values; `remedy`: what to do."""

    words: str
    remedy: str
    nodes: tuple[str, ...] = ()


class DoctorCheck(_Unchanging):
    """What became of one check. `evidence`: what was seen, a line for each node or thing;
    `remarks`: what is worth knowing and no fault."""

    name: str
    grade: HealthGrade
    symptoms: tuple[Symptom, ...] = ()
    evidence: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """The nodes that it names."""
        found: list[str] = []
        for symptom in self.symptoms:
            found += symptom.nodes
        return tuple(dict.fromkeys(found))


class DoctorReport(_Unchanging):
    """The whole. `where`: which cluster, or this machine; `job`: its name, empty for none; `quick`:
    nothing was measured; `nodes`: by the names under which they are told; `wall`: when (ISO 8601,
    UTC); `seconds`: how long it took."""

    format: int = FORMAT
    where: str
    job: str
    quick: bool
    nodes: tuple[str, ...]
    wall: str
    seconds: float
    checks: tuple[DoctorCheck, ...]

    @property
    def failed(self) -> tuple[DoctorCheck, ...]:
        return tuple(check for check in self.checks if check.grade == "failed")

    @property
    def is_sound(self) -> bool:
        return not self.failed

    @property
    def named(self) -> tuple[str, ...]:
        """The nodes that some check names, in their order."""
        found: list[str] = []
        for check in self.failed:
            found += check.named
        return tuple(dict.fromkeys(found))


def check_of(
    name: str,
    symptoms: tuple[Symptom, ...],
    evidence: tuple[str, ...] = (),
    remarks: tuple[str, ...] = (),
) -> DoctorCheck:
    """Failed where there are symptoms, else sound."""
    grade: HealthGrade = "failed" if symptoms else "sound"
    return DoctorCheck(
        name=name, grade=grade, symptoms=symptoms, evidence=evidence, remarks=remarks
    )


def not_run(name: str, why: str) -> DoctorCheck:
    """A check without anything to look at."""
    return DoctorCheck(name=name, grade="not run", remarks=(why,))
