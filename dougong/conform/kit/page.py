"""The conformance report as one page that needs nothing beside itself, and as rows of tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from dougong import __version__
from dougong.conform.record import CheckOutcome, Conformance, Deviation, OperatorFacts
from dougong.ui.report.templates import read_template, template_environment

_PACKAGE = "dougong.conform.kit"

OPERATORS = ("operators", "experts", "attention")
"""Groups whose outcomes hold facts of an operator."""
EXACT = "exact"


@dataclass(frozen=True)
class ErrorCell:
    """The largest error of an operator, as a part of what is allowed; `width`: of its bar, in per
    cent of the cell."""

    text: str
    width: float
    is_over: bool


@dataclass(frozen=True)
class OperatorRow:
    """One operator, as the table shows it."""

    outcome: CheckOutcome
    facts: OperatorFacts
    errors: Sequence[tuple[str, ErrorCell | None]]
    """(precision, its largest error; None: nothing was computed)."""


@dataclass(frozen=True)
class GroupRow:
    """How many checks of a group came to what."""

    name: str
    sound: int
    unsound: int
    not_run: int


def groups_of(found: Conformance) -> list[GroupRow]:
    """One row for each group, in the order of their checks."""
    names = dict.fromkeys(outcome.group for outcome in found.outcomes)
    rows = []
    for name in names:
        grades = [outcome.grade for outcome in found.group(name)]
        counts = [grades.count(grade) for grade in ("sound", "unsound", "not run")]
        rows.append(GroupRow(name, *counts))
    return rows


def operator_rows(found: Conformance) -> Iterator[OperatorRow]:
    """The operators, then the forms of experts and of attention."""
    for outcome in found.outcomes:
        if outcome.operator is not None and outcome.group in OPERATORS:
            yield OperatorRow(outcome, outcome.operator, _errors(outcome.operator))


def _errors(facts: OperatorFacts) -> list[tuple[str, ErrorCell | None]]:
    cells = []
    for dtype in ("float32", "bfloat16"):
        alike = [one for one in facts.deviations if one.dtype == dtype]
        cells.append((dtype, _cell(max(alike, key=_part)) if alike else None))
    return cells


def _part(one: Deviation) -> float:
    """How much of what is allowed an error takes."""
    if one.tolerance:
        return one.error / one.tolerance
    return 0.0 if one.error == 0 else float("inf")


def _cell(worst: Deviation) -> ErrorCell:
    part = _part(worst)
    text = f"{worst.error:.0e} of {worst.tolerance:.0e}" if worst.error else EXACT
    return ErrorCell(text, min(100.0, 100 * part), part > 1)


def render(found: Conformance) -> str:
    """The whole page as text."""
    groups = dict.fromkeys(outcome.group for outcome in found.outcomes)
    others = {name: found.group(name) for name in groups if name not in OPERATORS}
    page = template_environment(_PACKAGE).get_template("page.html.j2")
    return page.render(
        found=found,
        style=Markup(_style()),
        version=__version__,
        cards=_cards(found),
        operators=list(operator_rows(found)),
        others=others,
        segments=[*itertools.chain.from_iterable(one.segments for one in found.outcomes)],
        facts=_facts(found),
    )


def _cards(found: Conformance) -> list[tuple[str, str, str]]:
    """(label, value, more) at the head of the page."""
    grades = [outcome.grade for outcome in found.outcomes]
    forms = [row.facts.form for row in operator_rows(found)]
    unsound = len(found.unsound)
    more = f"{len(found.culprits)} by themselves, the others follow from them" if unsound else ""
    return [
        ("Checks", str(len(grades)), f"{grades.count('not run')} not run"),
        ("Unsound", str(unsound), more or "none"),
        ("Operators", str(len(forms)), f"{forms.count('native')} native"),
        ("Composed", str(forms.count("composed")), "made of other operators"),
        ("Missing", str(forms.count("missing")), "no kernel, or run on the host"),
        (
            "Model",
            found.model or "–",
            "segment by segment" if found.model else "none was asked for",
        ),
    ]


def _facts(found: Conformance) -> list[tuple[str, str]]:
    machine = found.machine
    named = [(f"{found.accelerator} {name}", value) for name, value in found.device.items()]
    here = [("host", machine.host), ("platform", machine.platform), ("cpu", machine.cpu)]
    return [*named, *here, ("python", machine.python), *sorted(machine.versions.items())]


def _style() -> str:
    """That of a run's report, and a little more."""
    return "\n".join(read_template(of, "page.css") for of in ("dougong.ui.report", _PACKAGE))
