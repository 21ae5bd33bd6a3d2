"""docs/evidence.md: every part of README has rows, every test of a row is there, every command is one; the page is what
the tool writes, and the tool takes nothing for a pass that is none."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.evidence_page import (
    NOT_RUN,
    PASSED,
    Figure,
    Outcome,
    Row,
    Standing,
    page,
    read_drills,
    read_outcomes,
    read_rows,
    read_standing,
)
from dougong.cli.main import load_command
from dougong.tools.drill.lines import digest_of_software
from tests.programs import load

ROOT = Path(__file__).resolve().parent.parent
ROWS = read_rows()
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGINNING = "the beginning"


evidence = load("evidence")


def parts_of_readme() -> set[str]:
    """Its headings, and the words in bold with which its paragraphs begin."""
    found = re.findall(r"^## (.+)$|^\*\*([^*]+)\*\*", README, re.MULTILINE)
    return {BEGINNING, *(bare(heading or bold) for heading, bold in found)}


def bare(text: str) -> str:
    return text.rstrip(".?")


def test_every_part_of_readme_has_rows_and_rows_name_parts_that_are_there() -> None:
    named = {bare(part) for row in ROWS for part in row.of}
    assert named == parts_of_readme()


def test_rows_have_a_key_each_and_something_that_shows_them() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS) > 60
    assert [row.key for row in ROWS if not (row.tests or row.commands)] == []
    assert [row.key for row in ROWS if not row.control] == []
    assert [row.key for row in ROWS if row.long and not row.commands and not row.tests] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_the_tests_of_a_row_are_there(row: Row) -> None:
    for place in row.all_tests:
        file, _, name = place.partition("::")
        name, _, _ = name.partition("[")  # one of its cases
        nodes = ast.walk(ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")))
        assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}, place


COMMANDS = sorted({command for row in ROWS for command in row.all_commands})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_rows_are_commands(command: str) -> None:
    first, second, *words = shlex.split(command)
    options = {word for word in words if word.startswith("--")}
    if first == "dougong":
        known = {option for parameter in load_command(second).params for option in parameter.opts}
    elif first == "make":
        assert re.search(rf"^{second}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        known = set[str]()
    else:
        assert first == "python", command
        known = set(re.findall(r'"(--[\w-]+)"', (ROOT / second).read_text(encoding="utf-8")))
    assert options <= known
    for word in words:
        assert not word.startswith("examples/") or (ROOT / word).exists()


@pytest.mark.parametrize("row", [row for row in ROWS if row.figures], ids=lambda row: row.key)
def test_figures_are_looked_for_where_something_is_printed(row: Row) -> None:
    assert row.commands
    for figure in row.figures:
        groups = set(re.compile(figure.pattern).groupindex)
        assert groups == {*figure.at_least, *figure.at_most}


def test_the_page_is_what_the_tool_writes() -> None:
    """`python benchmarks/evidence.py --page` after a change of the claims."""
    written = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert written == page(ROWS, read_outcomes(), read_drills(), read_standing())
    assert "docs/evidence.md" in README


ROW = Row("one", "First", "it holds", tests=("test_x.py::test_y",), limits="here")
DONE = Outcome("one", PASSED, "tests: 1 passed", 2.4, "2026-01-02 03:04", "a machine", "abc", "soft", ROW.digest)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (None, NOT_RUN),
        (DONE, "passed: tests: 1 passed; 2 s; 2026-01-02 03:04, A, abc, soft"),
        (replace(DONE, state="FAILED", words="tests: 1 failed"), "FAILED: tests: 1 failed; 2 s; 2026"),
        (replace(DONE, row="another"), NOT_RUN),
    ],
)
def test_a_row_tells_what_came_of_it_as_it_stands_now(outcome: Outcome | None, words: str) -> None:
    text = page([ROW], {} if outcome is None else {"one": outcome}, None)
    (line,) = [line for line in text.splitlines() if "it holds" in line]
    assert f"| {words}" in line and "`test_x.py::test_y`" in line and "| here |" in line


def test_the_head_tells_how_many_rows_are_of_the_present_software() -> None:
    rows = [replace(ROW, key=key) for key in ("one", "two", "three", "four")]
    old = {"two": ("soft0", "c0+"), "three": ("soft1", "c1"), "four": ("soft0", "c2")}
    outcomes = {row.key: replace(DONE, key=row.key, row=row.digest, commit="c3") for row in rows}
    for number, (key, (software, commit)) in enumerate(old.items()):
        outcomes[key] = replace(outcomes[key], software=software, commit=commit, date=f"2026-01-0{number + 1}")
    text = page(rows, outcomes, None, Standing("soft", "c3", 300, {"c0": 161, "c2": 5}))
    assert "Run by the software of when this page was written (commit c3, soft): 1 of 4 rows.\n" in text
    assert "| 2 | soft0 | c0+ | 161 of 300 |\n| 1 | soft1 | c1 | not known here |\n" in text
    outcomes["one"] = replace(outcomes["one"], row="written anew since")
    text = page(rows, outcomes, None, Standing("soft", "", 0, {}))
    assert (
        "when this page was written (soft): 0 of 4 rows.\n" in text and "| 2 | soft0 | c0+ | not known here |" in text
    )


def test_what_has_changed_since_a_commit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    assert evidence.standing(["abc"]) == Standing(digest_of_software(), "", 0, {}), "no checkout of git"

    def git(*words: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *own, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(*names: str) -> str:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"{time.monotonic_ns()}")
        git("add", ".")
        git("commit", "-m", "more")
        return git("rev-parse", "--short=12", "HEAD")

    git("init")
    first = commit("dougong/a.py", "dougong/b.py", "docs/c.md")
    second = commit("dougong/b.py")
    commit("docs/c.md")
    known = [f"{first}+", second, "0123456789ab"]
    assert evidence.standing(known) == Standing(digest_of_software(), second, 2, {first: 1, second: 0})
    (tmp_path / "dougong" / "a.py").write_text("as it is now")
    assert evidence.standing(known) == Standing(digest_of_software(), f"{second}+", 2, {first: 2, second: 1})


def test_what_has_passed_by_this_software_is_not_run_again() -> None:
    assert evidence.is_done(ROW, DONE, "soft")
    for other in (None, replace(DONE, software="x"), replace(DONE, row="x"), replace(DONE, state="not whole")):
        assert not evidence.is_done(ROW, other, "soft")
    assert not evidence.is_done(ROW, DONE, "newer")


@pytest.mark.parametrize(
    ("status", "output", "state"),
    [
        (0, "....\n4 passed in 1.2s", "passed"),
        (0, "4 passed, 1 skipped in 1.2s", "not whole"),
        (0, "4 passed, 2 deselected in 1.2s", "not whole"),
        (5, "2 deselected in 0.1s", "not whole"),
        (1, "1 failed, 3 passed in 1.2s", "FAILED"),
        (1, "1 failed, 3 passed, 1 skipped in 1.2s", "FAILED"),
        (124, "", "FAILED"),
        (4, "ERROR: not found: tests/test_x.py::test_y", "FAILED"),
        (2, "no tests ran, 1 error in 0.5s", "FAILED"),
    ],
)
def test_a_test_that_was_left_out_is_no_pass(status: int, output: str, state: str) -> None:
    assert evidence.of_tests(status, output)[0] == state


def with_command(code: str, **changes: object) -> Row:
    return replace(Row("one", "First", "it holds", commands=(f"python -c {shlex.quote(code)}",)), **changes)


@pytest.mark.parametrize(
    ("row", "state", "words"),
    [
        (with_command("print(7)"), "passed", "7"),
        (with_command("print(7); raise SystemExit(3)"), "FAILED", "exit status 3: 7"),
        (with_command("print('3 of 3 done\\nend')", figures=(Figure(r"\d of \d done"),)), "passed", "3 of 3 done"),
        (with_command("print('end')", figures=(Figure(r"\d of \d done"),)), "FAILED", "nothing like"),
        (with_command("print(1)", control=("python -c 'raise SystemExit(1)'",)), "FAILED", "1; exit status 1"),
    ],
)
def test_a_row_is_run(row: Row, state: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path)
    outcome = evidence.run_row(row)
    assert outcome.state == state and outcome.words.startswith(words), outcome.words
    assert (tmp_path / "one.out").read_text().startswith("$ ")


def test_a_command_that_hangs_is_ended_with_what_it_has_begun() -> None:
    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
        "print(child.pid, flush=True); child.wait()"
    )
    status, output = evidence.run([sys.executable, "-c", code], 3.0)
    assert status == 124 and not Path(f"/proc/{output.strip()}/cwd").exists()


def test_schedules_are_summed_up_by_fault(tmp_path: Path) -> None:
    def line(number: int, **changes: object) -> str:
        fault = {"fault": "kill", "is_right": True, "acted_s": 0.1 * number, "recovered_s": None}
        row = {"key": f"7/{number}", "is_good": True, "digest": "d", "seconds": 20.0, "ended": "t", "faults": [fault]}
        return json.dumps(row | {"code": digest_of_software()} | changes) + "\n"

    (tmp_path / "drills.jsonl").write_text(line(1) + line(2) + line(3, is_good=False) + line(4, code="other"))
    told = evidence.drills_in(tmp_path)
    assert (told["schedules"], told["good"], told["failed"], told["digests"]) == (3, 2, ["7/3"], ["d"])
    assert told["faults"] == [{"fault": "kill", "n": 3, "right": 3, "acted_s": 0.2, "recovered_s": None}]
    text = page([ROW], {}, told)
    assert "2 of 3 schedules ended with the weights" in text and "not as they should be: 7/3" in text
    assert "| kill | 3 | 3 | 0.2 |  |" in text and "changed since" not in text
    text = page([ROW], {}, told, Standing("newer", "c3", 300, {told["commit"].rstrip("+"): 7}))
    assert f"software {digest_of_software()} (files of dougong/ changed since: 7 of 300)." in text
    with pytest.raises(SystemExit, match="no line of this software"):
        evidence.drills_in(tmp_path / "nothing")
