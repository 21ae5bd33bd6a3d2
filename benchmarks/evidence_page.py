"""The rows of docs/evidence.yaml, what came of them, and the page that tells both. Pure, but for the files it reads."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from dougong.records.jsonl import JsonLines

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "docs" / "evidence.yaml"
RESULTS = ROOT / "docs" / "evidence.jsonl"
DRILLS, STANDING = "drills", "standing"
PASSED, FAILED, NOT_WHOLE = "passed", "FAILED", "not whole"


@dataclass(frozen=True)
class Figure:
    """What a row's commands must print: `pattern`, in so many places at least. In none of them may the number of a
    named group be less than `at_least` has for it, or more than `at_most`."""

    pattern: str
    times: int = 1
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)

    def judge(self, printed: str) -> tuple[list[str], list[str]]:
        """What is there, and what is wrong with it."""
        matches = list(re.finditer(self.pattern, printed))
        wrong = [words for match in matches for words in self._out_of_bounds(match)]
        if len(matches) < self.times:
            number = f"only {len(matches)} times, not {self.times}: " if matches else "nothing "
            wrong.append(f"{number}like `{self.pattern}` was printed")
        return [" ".join(match.group(0).split()) for match in matches], wrong

    def _out_of_bounds(self, match: re.Match[str]) -> Iterator[str]:
        for name, least in self.at_least.items():
            if not float(match[name]) >= least:
                yield f"{name} is {match[name]}, less than {least:g}"
        for name, most in self.at_most.items():
            if not float(match[name]) <= most:
                yield f"{name} is {match[name]}, more than {most:g}"


@dataclass(frozen=True)
class Row:
    """A claim. `of`: the parts of README that make it; `tests`: below tests/; `commands`: from the top of a checkout;
    `control`: tests or commands in which what is claimed is broken on purpose; `figures`: what the commands must print,
    which is told; `limits`: what is not claimed, or not seen yet."""

    key: str
    section: str
    claim: str
    of: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    limits: str = ""
    long: bool = False

    @property
    def digest(self) -> str:
        """Of what it says and runs."""
        return hashlib.blake2b(repr(self).encode(), digest_size=4).hexdigest()

    @property
    def all_tests(self) -> list[str]:
        return list(dict.fromkeys((*self.tests, *(one for one in self.control if is_test(one)))))

    @property
    def all_commands(self) -> list[str]:
        return list(dict.fromkeys((*self.commands, *(one for one in self.control if not is_test(one)))))


@dataclass(frozen=True)
class Outcome:
    """What came of a row, the last time. `machine`: in words; `commit`: of the checkout, with a + where files differ
    from it; `software`: the digest of what computes; `row`: of the row."""

    key: str
    state: str
    words: str
    seconds: float = 0.0
    date: str = ""
    machine: str = ""
    commit: str = ""
    software: str = ""
    row: str = ""


@dataclass(frozen=True)
class Standing:
    """What the software was when the page was written. `commit`: the newest that touched dougong/, with a + where files
    differ from it, empty without git; `files`: of dougong/; `changed`: how many of them differ from how they were at a
    commit of an older row, as far as git knows it."""

    software: str
    commit: str
    files: int
    changed: Mapping[str, int]


def is_test(text: str) -> bool:
    return "::" in text


def read_rows(file: Path = CLAIMS) -> list[Row]:
    """In the order of the file."""
    found = []
    for section, rows in yaml.safe_load(file.read_text(encoding="utf-8")).items():
        for raw in rows:
            figures = tuple(Figure(raw) if isinstance(raw, str) else Figure(**raw) for raw in raw.pop("figures", ()))
            many = {name: tuple(raw.pop(name, ())) for name in ("of", "tests", "commands", "control")}
            found.append(Row(section=section, figures=figures, **raw, **many))
    return found


def read_outcomes(file: Path = RESULTS) -> dict[str, Outcome]:
    """By key, the newest."""
    lines = JsonLines(file).read()
    return {line["key"]: Outcome(**line) for line in lines if line["key"] not in (DRILLS, STANDING)}


def read_drills(file: Path = RESULTS) -> dict[str, Any] | None:
    """The newest table of schedules."""
    return next((line for line in reversed(JsonLines(file).read()) if line["key"] == DRILLS), None)


def read_standing(file: Path = RESULTS) -> Standing | None:
    """The newest."""
    lines = [line for line in JsonLines(file).read() if line.pop("key") == STANDING]
    return Standing(**lines[-1]) if lines else None


# The page.

HEAD = """# Evidence

What README and these pages claim, what shows it, and when that was run. `benchmarks/evidence.py` writes this page from
`docs/evidence.yaml` (claims, what shows each, limits) and `docs/evidence.jsonl` (what came of it):

    .venv/bin/python benchmarks/evidence.py                  # all rows that take minutes; an ended call goes on
    .venv/bin/python benchmarks/evidence.py --long           # those that take hours, too
    .venv/bin/python benchmarks/evidence.py --list           # what is still to be run by this software

Tests are named without `tests/`. A row has passed where every test and command of it, negative controls among them,
ran and did as it should (one that was left out is no pass), and its figures are within the bounds that
`docs/evidence.yaml` sets. *Control*: what is claimed is broken on purpose, and that is found.
What can go wrong, row by row, is in [trust.md](trust.md); what is promised to strangers in [security.md](security.md);
figures of speed in [benchmarks/README.md](../benchmarks/README.md); what has been seen on a GPU in
[gpu.md](../benchmarks/gpu.md). A row is of the commit and the software digest that it names, of none that came after;
+ is a checkout that differed from its commit.
"""
NOT_RUN = "not run yet"
COLUMNS = ("claim", "shown by", "control", "limits", "last run")


def page(
    rows: Sequence[Row], outcomes: dict[str, Outcome], drills: dict[str, Any] | None, standing: Standing | None = None
) -> str:
    """The whole page."""
    ran = [outcomes[row.key] for row in rows if row.key in outcomes]
    machines = list(dict.fromkeys(outcome.machine for outcome in ran))
    parts = [HEAD, f"{len(rows)} rows: {counted(rows, outcomes)}.\n"]
    if standing is not None:
        counting = [outcomes[row.key] for row in rows if state_of(row, outcomes.get(row.key)) != NOT_RUN]
        parts.append(words_of_software(counting, len(rows), standing))
    parts += [f"Machine {letter(number)}: {name}.\n" for number, name in enumerate(machines)]
    for section in dict.fromkeys(row.section for row in rows):
        own = [row for row in rows if row.section == section]
        lines = [line_of(row, outcomes.get(row.key), machines) for row in own]
        parts.append(f"## {section}\n\n{table(COLUMNS, lines)}")
    parts.append(f"## Schedules of faults, counted\n\n{words_of_drills(drills, standing)}")
    return "\n".join(parts)


def counted(rows: Sequence[Row], outcomes: dict[str, Outcome]) -> str:
    states = [state_of(row, outcomes.get(row.key)) for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in (PASSED, FAILED, NOT_WHOLE, NOT_RUN))


def words_of_software(ran: Sequence[Outcome], num_rows: int, standing: Standing) -> str:
    """How many rows are of the software as it was when the page was written, and what has changed since the others."""
    at = f"commit {standing.commit}, " if standing.commit else ""
    present = sum(outcome.software == standing.software for outcome in ran)
    words = (
        f"Run by the software of when this page was written ({at}{standing.software}): {present} of {num_rows} rows.\n"
    )
    older = sorted((one for one in ran if one.software != standing.software), key=lambda one: one.date)
    lines = []
    for software in dict.fromkeys(outcome.software for outcome in older):
        own = [outcome for outcome in older if outcome.software == software]
        lines.append((str(len(own)), software, own[0].commit, changed_since(own[0].commit, standing)))
    head = ("rows of an older one", "software", "first of them by commit", "files of dougong/ changed since")
    return f"{words}\n{table(head, lines)}" if lines else words


def changed_since(commit: str, standing: Standing) -> str:
    number = standing.changed.get(commit.rstrip("+"))
    return "not known here" if number is None else f"{number} of {standing.files}"


def state_of(row: Row, outcome: Outcome | None) -> str:
    """What a row that has been written anew since has shown does not count."""
    return NOT_RUN if outcome is None or outcome.row != row.digest else outcome.state


def letter(number: int) -> str:
    return chr(ord("A") + number)


def line_of(row: Row, outcome: Outcome | None, machines: Sequence[str]) -> tuple[str, ...]:
    shown = cell((*row.tests, *row.commands))
    claim = f'<a id="{row.key}"></a>{row.claim}'
    return claim, shown, cell(row.control), row.limits, last_run(row, outcome, machines)


def cell(shown: Sequence[str]) -> str:
    return "<br>".join(f"`{one}`" for one in shown)


def last_run(row: Row, outcome: Outcome | None, machines: Sequence[str]) -> str:
    state = state_of(row, outcome)
    if outcome is None or state == NOT_RUN:
        return NOT_RUN
    where = f"{outcome.date}, {letter(machines.index(outcome.machine))}, {outcome.commit}, {outcome.software}"
    return f"{state}: {outcome.words}; {outcome.seconds:.0f} s; {where}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def words_of_drills(drills: dict[str, Any] | None, standing: Standing | None) -> str:
    if drills is None:
        return f"By `python benchmarks/evidence.py --drills FOLDER`: {NOT_RUN}.\n"
    failed = f"; not as they should be: {', '.join(drills['failed'])}" if drills["failed"] else ""
    since = ""
    if standing is not None and drills["software"] != standing.software:
        since = f" (files of dougong/ changed since: {changed_since(drills['commit'], standing)})"
    words = (
        f"{drills['good']} of {drills['schedules']} schedules ended with the weights, optimizer state and samples of\n"
        f"the undisturbed run, every fault named right and nothing left{failed}. Digests of their final state: "
        f"{', '.join(drills['digests'])}.\nMedian {drills['seconds']} s each; {drills['first']} to {drills['last']}; "
        f"{drills['machine']}; commit {drills['commit']},\nsoftware {drills['software']}{since}.\n\n"
    )
    rows = [tuple(str("" if value is None else value) for value in fault.values()) for fault in drills["faults"]]
    head = ("fault", "times", "named right", "acted on after (s, median)", "training again after (s, median)")
    return words + table(head, rows)
