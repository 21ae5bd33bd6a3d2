"""Runs what docs/evidence.md says shows each claim, and writes that page.

    python benchmarks/evidence.py [--only KEY ...] [--long] [--minutes N] [--again] [--list | --page]
    python benchmarks/evidence.py --drills FOLDER

Claims, and what shows each, stand in docs/evidence.yaml; what came of them in docs/evidence.jsonl, a line for each
time. A row that has passed by this software is not run again, so that an ended call goes on where it was; `--long`
takes those that need more than some minutes, too. Rows that need what is not here say so. `--drills` sums up the lines
of `dougong drill` in a folder, by fault, into a table of the page. Exit status 1 where a row has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence_page import (
    DRILLS,
    FAILED,
    NOT_WHOLE,
    PASSED,
    RESULTS,
    STANDING,
    Outcome,
    Row,
    Standing,
    page,
    read_drills,
    read_outcomes,
    read_rows,
    read_standing,
)
from dougong.control.processes import die_with_parent
from dougong.records.jsonl import JsonLines
from dougong.tools.drill.lines import digest_of_software

ROOT = Path(__file__).resolve().parent.parent

PAGE = ROOT / "docs" / "evidence.md"
KEPT = ROOT / "runs" / "evidence"
LIMIT_S, LONG_S = 1500.0, 20_000.0
"""Of all that a row runs; of one that is `long`."""
PYTEST = ("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider")
END_S = 10.0
_TAIL = 200


# Running.


def run_row(row: Row) -> Outcome:
    """Its tests, then its commands, until one does not do as it should. What they print is kept in runs/evidence."""
    began, limit_s = time.monotonic(), LONG_S if row.long else LIMIT_S
    state, found, printed = PASSED, list[str](), ""
    for words in steps_of(row):
        status, output = run(words, began + limit_s - time.monotonic())
        printed += f"$ {shlex.join(words)}\n{output}\n"
        state, said = of_tests(status, output) if "pytest" in words else of_command(status, output)
        found.append(said)
        if state != PASSED:
            break
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{row.key}.out").write_text(printed, encoding="utf-8")
    if state == PASSED and row.figures:
        state, found = with_figures(row, printed, found)
    return Outcome(row.key, state, "; ".join(found), round(time.monotonic() - began, 1))


def steps_of(row: Row) -> Iterator[list[str]]:
    if row.all_tests:
        yield [sys.executable, *PYTEST, *(f"tests/{test}" for test in row.all_tests)]
    for command in row.all_commands:
        yield words_of(command)


def with_figures(row: Row, printed: str, found: Sequence[str]) -> tuple[str, list[str]]:
    """What the row looks for in place of the last lines of its commands; it must be there, and within its bounds."""
    told, wrong = list(found[:1]) if row.all_tests else [], list[str]()
    for figure in row.figures:
        there, amiss = figure.judge(printed)
        told += [words for words in dict.fromkeys(there) if not any(words in before for before in told)]
        wrong += amiss
    return FAILED if wrong else PASSED, [*told, *dict.fromkeys(wrong)]


def words_of(command: str) -> list[str]:
    """By this interpreter."""
    first, *others = shlex.split(command)
    own = {"dougong": [sys.executable, "-m", "dougong"], "python": [sys.executable]}
    return [*own.get(first, [first]), *others]


def run(words: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Exit status and what was printed; 124 where its time was over. It ends with this process, and all that it had
    begun where it is ended."""
    ours = os.getpid()
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, errors="replace", preexec_fn=lambda: die_with_parent(ours),
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(limit_s, 1.0))
    except subprocess.TimeoutExpired:
        end(process)
        return 124, process.communicate()[0] or ""
    except BaseException:
        end(process)
        raise
    return process.returncode, output


def end(process: subprocess.Popen[str]) -> None:
    """With all of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


def of_tests(status: int, output: str) -> tuple[str, str]:
    """State and words. A test that was left out shows nothing."""
    counts = dict[str, int]()
    for number, word in re.findall(r"(\d+) (passed|failed|skipped|deselected|errors?|xfailed)", last_line(output)):
        counts[word] = int(number)
    words = ", ".join(f"{number} {word}" for word, number in counts.items()) or last_line(output)
    if status == 0 and set(counts) == {"passed"}:
        return PASSED, f"tests: {words}"
    is_left_out = status in (0, 5) and "failed" not in counts
    return NOT_WHOLE if is_left_out else FAILED, f"tests: {words}"


def of_command(status: int, output: str) -> tuple[str, str]:
    if status == 0:
        return PASSED, last_line(output)
    return FAILED, f"exit status {status}: {last_line(output)}"


def last_line(output: str) -> str:
    """Files of the checkout by their names in it."""
    lines = [line.strip() for line in output.replace(f"{ROOT}/", "").splitlines() if line.strip()]
    return lines[-1][-_TAIL:].strip("= ") if lines else "nothing was printed"


def stamped(outcome: Outcome, row: Row) -> Outcome:
    """With when, where and of what."""
    return replace(
        outcome,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        machine=machine(),
        commit=commit(),
        software=digest_of_software(),
        row=row.digest,
    )


def machine() -> str:
    """In words that say what figures mean."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB; Linux {platform.release()}, Python "
        f"{platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}"
    )


def git(*words: str) -> str | None:
    """None where there is no git, or it does not know what it is asked."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str:
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/evidence.*")
    return (git("rev-parse", "--short=12", "HEAD") or "") + ("+" if changed else "")


def standing(commits: Iterable[str]) -> Standing:
    """Of this checkout, beside those at which rows have been run."""
    here = git("log", "-1", "--format=%h", "--abbrev=12", "HEAD", "--", "dougong") or ""
    changed = {}
    for known in sorted({commit.rstrip("+") for commit in commits} - {""}):
        names = git("diff", "--name-only", known, "--", "dougong")
        if names is not None:
            changed[known] = len(names.splitlines())
    files = git("ls-files", "--", "dougong") or ""
    differs = git("status", "--porcelain", "--untracked-files=no", "--", "dougong")
    return Standing(digest_of_software(), here + ("+" if differs else ""), len(files.splitlines()), changed)


def is_done(row: Row, outcome: Outcome | None, software: str) -> bool:
    """Whether this row, as it stands, has passed by this software."""
    return outcome is not None and (outcome.state, outcome.row, outcome.software) == (PASSED, row.digest, software)


# The table of schedules.


def drills_in(folder: Path) -> dict[str, Any]:
    """What the lines of a folder say of this software, in all and by fault."""
    code = digest_of_software()
    lines = {line["key"]: line for line in JsonLines(folder / "drills.jsonl").read() if line.get("code") == code}
    if not lines:
        raise SystemExit(f"{folder}: no line of this software ({code}); dougong drill --folder {folder} writes them")
    faults = [fault for line in lines.values() for fault in line["faults"]]
    names = sorted({fault["fault"] for fault in faults})
    return {
        "key": DRILLS,
        "schedules": len(lines),
        "good": sum(line["is_good"] for line in lines.values()),
        "failed": sorted(key for key, line in lines.items() if not line["is_good"]),
        "digests": sorted({line["digest"] for line in lines.values()}),
        "seconds": round(statistics.median(line["seconds"] for line in lines.values()), 1),
        "first": min(line["ended"] for line in lines.values()),
        "last": max(line["ended"] for line in lines.values()),
        "machine": machine(),
        "commit": commit(),
        "software": code,
        "faults": [one_fault(name, [fault for fault in faults if fault["fault"] == name]) for name in names],
    }


def one_fault(name: str, faults: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "fault": name,
        "n": len(faults),
        "right": sum(fault["is_right"] for fault in faults),
        "acted_s": median_of(faults, "acted_s"),
        "recovered_s": median_of(faults, "recovered_s"),
    }


def median_of(faults: Sequence[dict[str, Any]], name: str) -> float | None:
    known = [fault[name] for fault in faults if fault[name] is not None]
    return round(statistics.median(known), 2) if known else None


def write_page() -> None:
    """From what lies in the checkout."""
    outcomes, schedules = read_outcomes(), read_drills()
    of_schedules = [schedules["commit"]] if schedules is not None else []
    now = standing([*(outcome.commit for outcome in outcomes.values()), *of_schedules])
    if now != read_standing():
        JsonLines(RESULTS).append({"key": STANDING, **vars(now)})
    PAGE.write_text(page(read_rows(), outcomes, schedules, now), encoding="utf-8")


def run_all(rows: Sequence[Row], given: argparse.Namespace) -> int:
    """The number of those that have not passed."""
    until, software, bad = time.monotonic() + 60 * given.minutes, digest_of_software(), 0
    for row in rows:
        if time.monotonic() > until:
            break
        if is_done(row, read_outcomes().get(row.key), software) and not given.again:
            continue
        print(f"{row.key}: {row.claim}", flush=True)
        outcome = stamped(run_row(row), row)
        JsonLines(RESULTS).append(vars(outcome))
        write_page()
        print(f"  {outcome.state}: {outcome.words}; {outcome.seconds:.0f} s", flush=True)
        bad += outcome.state != PASSED
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY", help="these rows, the long ones too")
    parser.add_argument("--long", action="store_true", help="also rows that take more than some minutes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no row begins after so many")
    parser.add_argument("--again", action="store_true", help="also what has passed by this software")
    parser.add_argument("--list", action="store_true", help="print what has not passed by this software")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--drills", type=Path, metavar="FOLDER", help="sum up the schedules of that folder")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it has begun ends with it
    rows = read_rows()
    unknown = set(given.only) - {row.key for row in rows}
    if unknown:
        parser.error(f"--only: no row is called {', '.join(sorted(unknown))}; docs/evidence.yaml has them")
    rows = [row for row in rows if row.key in given.only or (not given.only and (given.long or not row.long))]
    if given.drills is not None:
        JsonLines(RESULTS).append(drills_in(given.drills))
    if given.list:
        outcomes, software = read_outcomes(), digest_of_software()
        left = [row.key for row in rows if not is_done(row, outcomes.get(row.key), software)]
        print("\n".join([*left, f"{len(left)} of {len(rows)} left for software {software}"]))
        return 0
    if given.page or given.drills is not None:
        write_page()
        return 0
    try:
        return 1 if run_all(rows, given) else 0
    except KeyboardInterrupt:
        print("ended; the same command goes on with this row", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
