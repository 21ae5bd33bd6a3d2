"""Figures of docs/evidence.yaml: what was measured passes, and each bound of each row fails on a bad one."""

from __future__ import annotations

import pytest
from benchmarks.evidence_page import FAILED, PASSED, Figure, Row, read_rows
from tests.programs import load

ROWS = {row.key: row for row in read_rows() if row.figures}
evidence = load("evidence")

STEPS = "".join(
    f"step, size small, {rows} rows, {workers} workers, layout over off: median 1.073, quartiles 1.032 to 1.203\n"
    for rows in (128, 16)
    for workers in (1, 2, 4)
)
SUMS = "".join(
    f"sum of {size} MiB, {workers} workers, over gloo's all_reduce: median 1.765, quartiles 1.215 to 2.083\n"
    for size in (1, 16, 64)
    for workers in (2, 4)
)
JOBS = """two with both sides                    431 (423: 1.018), 419 (423: 0.990)
two with both sides, half moments      414 (407: 1.017), 403 (407: 0.990)
two with both sides, layers run again  229 (237: 0.965), 223 (237: 0.943)
apart, zebra                           512 (520: 0.985), 502 (520: 0.967), 1147 (1160: 0.989)
apart, af_pipe                         1024 (1042: 0.983), 595 (583: 1.020), 562 (583: 0.965)
apart, zebra, layers run again         150 (155: 0.966), 150 (155: 0.965), 757 (786: 0.962)
attention  2 micro-batches 61 (67: 0.910), 8: 179 (184: 0.973); each more 19.5 (19.6)
experts    2 micro-batches 172 (189: 0.910), 8: 378 (393: 0.962); each more 34.3 (34.1)
299M parameters: 5167 MB, planned 5164 MB: 1.001
"""
RECOVERY = """kill: load 1.8
kill: median 0.68 s, worst 1.27 s, n 20, load 1.8 to 8.2; noticed 0.026
stop: median 3.84 s, worst 4.70 s, n 21, load 1.6 to 6.3
agent: median 5.63 s, worst 6.58 s, n 22, load 1.5 to 5.7
agent_spare: median 0.78 s, worst 1.09 s, n 23, load 3.0 to 11.3
controller: median 1.61 s, worst 1.98 s, n 24, load 5.3 to 7.7
"""
ACCEPTED = "changed a checkpoint\n    accepted without a word:"
CORRUPTION = """torch.distributed.checkpoint: 690 damages, 660 changed a checkpoint
    accepted without a word: 174 (26.4%)
dougong, the same kinds: 690 damages, 651 changed a checkpoint
    accepted without a word: 0 (0.0%)
dougong: 10000 damages, 9415 changed a checkpoint
    accepted without a word: 0 (0.0%)
"""
SAVING = "".join(
    f"""{workers} workers, {form}: a step 1.61 s, a save 41 MB
    first save held training 41 ms, 2.5% of a step
    later ones 21 ms, {stall} (1.26 to 1.32) % of a step
    the step beside the writing over the one before: {beside} (0.95 to 1.11)
step, size medium, {workers + 1} workers, with snapshots over without: median 1.078, quartiles 1.029 to 1.093
    a step's wait for its snapshot: median 0.1 ms (the worker that waits longest)
"""
    for workers in (1, 2)
    for form, stall, beside in (("plain", 3.5, 1.3), ("ours", 1.28, 1.05))
)
FLIPS = """flips in compute copies: 108 of 108 caught before the step was committed (100.0 %)
flips in messages: 506 of 506 caught before the step was committed (100.0 %)
flips in moments: 301 of 301 caught before the step was committed (100.0 %)
flips in weights: 85 of 85 caught before the step was committed (100.0 %)
steps without a flip: 0 of 1000 ended
sums of state and copies, of a step: median 1.24 %, quartiles 0.981 to 1.3 % (20.41 ms of 1636 ms)
sums of messages, of a step: median 1.56 %, quartiles 1.46 to 1.78 % (29.22 ms of 1636 ms)
an audited step, of one that is not: median 201 %, quartiles 151 to 232 % (3535 ms of 1636 ms)
"""
AUDIT = (
    """once, in each of 400 steps: 0.250 seen before the commit, 1/4 = 0.250
steps without a flip: 0 of 400 ended
once, in each of 40 steps: 1.000 seen before the commit, 1/1 = 1.000
steps without a flip: 0 of 40 ended
"""
    + 6 * "again and again, in 0.5 of all steps: 0.500 of 50 seen within 4 steps, formula 0.500 (0.280 to 0.720)\n"
)
DRILLS = (
    "20 of 20 schedules done: 20 with the bits and samples of the undisturbed run, 0 hung, 0 left something; "
    "21 of 21 faults named right\n"
)

CASES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "price": (STEPS + SUMS, [
        ("128 rows, 2 workers, layout over off: median 1.073", "128 rows, 2 workers, layout over off: median 1.26"),
        ("16 rows, 4 workers, layout over off: median 1.073", "16 rows, 4 workers, layout over off: median 1.51"),
        ("16 MiB, 2 workers, over gloo's all_reduce: median 1", "16 MiB, 2 workers, over gloo's all_reduce: median 2"),
        ("1 MiB, 4 workers, over gloo's all_reduce: median 1.", "1 MiB, 4 workers, over gloo's all_reduce: median 8."),
        ("step, size small, 128 rows, 1", ""), ("step, size small, 16 rows, 1", ""),
        ("of 64 MiB, 2", ""), ("of 1 MiB, 4", ""),
    ]),
    "fits": (JOBS, [
        ("1024 (1042: 0.983)", "1124 (1042: 1.079)"), ("61 (67: 0.910)", "51 (67: 0.761)"), (", 150 (155: 0.965)", ""),
        ("5167 MB, planned 5164 MB: 1.001", "5167 MB, planned 100 MB: 51.67"), ("5164 MB: 1.001", "5540 MB: 0.933"),
        ("apart, zebra  ", "zebra  "), ("attention  2", "2"), ("299M parameters", ""),
    ]),
    "recompute": (
        "time of layers over none: median 1.275, quartiles 1.208 to 1.441\n"
        "peak of an attention worker, hidden 64: 88.4 and 17.3 MB, 0.196\n",
        [("median 1.275", "median 1.6"), ("0.196", "0.41"), ("time of layers", ""), ("peak of", "")],
    ),
    "sharded": (
        "processor seconds: 1.490 and 1.556 s a step; shard over copy 1.049, quartiles 1.029 to 1.078\n"
        "dense weights 6.92 MB, of which at most 2.40 MB are there (0.347)\n",
        [("copy 1.049", "copy 1.2"), ("(0.347)", "(0.5)"), ("processor seconds", ""), ("dense weights", "")],
    ),
    "every-fault": ("171 of 171 injections, 57 of 57 rows, 171 right (100.0 %); load 2.2 to 20.7\n", [
        ("171 right (100.0 %)", "169 right (98.8 %)"), ("171 of 171", "0 of 171"), ("57 of 57", "56 of 57"),
    ]),
    "recovery-times": (RECOVERY, [
        ("median 0.68", "median 1.01"), ("worst 1.27", "worst 2.1"), ("n 20", "n 19"), ("agent_spare: m", "m"),
        ("median 3.84", "median 4.6"), ("worst 4.70", "worst 6.1"), ("n 21", "n 1"), ("stop: m", "m"),
        ("median 5.63", "median 7.1"), ("worst 6.58", "worst 11"), ("n 22", "n 2"), ("agent: m", "m"),
        ("median 1.61", "median 2.6"), ("worst 1.98", "worst 4.1"), ("n 24", "n 3"), ("controller: m", "m"),
    ]),
    "soak": ("suspicions shown 47, taken back 47; acts 0, restarts 0\n", [
        ("acts 0", "acts 1"), ("restarts 0", "restarts 2"), ("back 47", "back 46"),
    ]),
    "corruption-10000": (CORRUPTION, [
        (f"651 {ACCEPTED} 0", f"651 {ACCEPTED} 1"), (f"9415 {ACCEPTED} 0", f"9415 {ACCEPTED} 1"),
        ("651", "12"), ("9415", "8415"), ("torch.distributed.checkpoint: 690", "torch.distributed.checkpoint: 23"),
        ("dougong: 10000", "dougong: 400 of 10000"), ("kinds: 690", "kinds: 23 of 690"),
    ]),
    "saving": (SAVING, [
        ("1.28 (1.26", "90 (1.26"), ("median 1.078", "median 1.2"), ("median 0.1 ms", "median 70 ms"),
        ("before: 1.05", "before: 1.2"),
        ("2 workers, ours", "2 workers, plain"), ("with snapshots", ""), ("a step's wait", ""),
    ]),
    "flips": (FLIPS, [
        ("flips in weights: 85 of 85 caught before the step was committed (100.0 %)",
         "flips in weights: 0 of 85 caught before the step was committed (0.0 %)"),
        ("flips in weights", "weights"), ("0 of 1000 ended", "1 of 1000 ended"),
        ("median 1.24 %", "median 2.1 %"), ("median 1.56 %", "median 2.6 %"), ("median 201 %", "median 251 %"),
        ("sums of state", ""), ("sums of messages", ""), ("an audited", ""),
    ]),
    "audit": (AUDIT, [
        ("0.250 seen", "0.000 seen"), ("0.250 seen", "0.500 seen"), ("1.000 seen", "0.975 seen"), ("each of 400", ""),
        ("each of 40 ", ""), ("0 of 40 ended", "1 of 40 ended"), (", formula 0.500 (0.280 to 0.720)\n", "\n"),
    ]),
    "drills-100": (DRILLS.replace("20", "100") + "9 of 9 found\n", [
        ("100 with", "99 with"), ("100 of 100", "99 of 100"), ("0 hung", "1 hung"), ("0 left", "1 left"),
        ("21 of 21", "20 of 21"), ("9 of 9", "8 of 9"),
    ]),
    "drills-lab": (DRILLS, [
        ("20 with", "19 with"), ("20 of 20", "19 of 20"), ("0 hung", "1 hung"), ("0 left", "1 left"),
        ("21 of 21", "20 of 21"),
    ]),
}  # fmt: skip
"""What each row's commands print, and what makes it a bad one."""


@pytest.mark.parametrize("key", CASES)
def test_a_bad_figure_fails(key: str) -> None:
    row, (good, changes) = ROWS[key], CASES[key]
    assert judged(row, good) == PASSED
    seen = set[str]()
    for before, after in changes:
        assert before in good
        bad = good.replace(before, after)
        assert judged(row, bad) == FAILED, (before, after)
        seen |= {one for figure in row.figures for one in broken(figure, bad)}
    assert seen == {one for figure in row.figures for one in bounds_of(figure)}


def judged(row: Row, printed: str) -> str:
    return str(evidence.with_figures(row, printed, ["tests: 1 passed"])[0])


def bounds_of(figure: Figure) -> list[str]:
    least, most = (f"{figure.pattern}: {{}}, {words}" for words in ("less", "more"))
    return [figure.pattern, *(least.format(name) for name in figure.at_least), *map(most.format, figure.at_most)]


def broken(figure: Figure, printed: str) -> list[str]:
    """Which of its bounds a bad output breaks, as `bounds_of` calls them."""
    _, wrong = figure.judge(printed)
    found = []
    for words in wrong:
        name, _, rest = words.partition(" is ")
        is_bound = ", less than" in rest or ", more than" in rest
        found.append(f"{figure.pattern}: {name}, {rest.split()[1]}" if is_bound else figure.pattern)
    return found


def test_every_row_with_figures_has_bad_ones_and_names_them_as_its_control() -> None:
    assert set(CASES) == set(ROWS)
    for key, row in ROWS.items():
        assert f"test_figures.py::test_a_bad_figure_fails[{key}]" in row.control


def test_what_is_amiss_is_told_beside_what_was_found() -> None:
    figure = Figure(r"took (?P<ratio>[\d.]+)", times=2, at_least={"ratio": 0.5}, at_most={"ratio": 1.5})
    row = Row("one", "First", "it holds", commands=("python -c pass",), figures=(figure,))
    told = evidence.with_figures(row, "took 1.0\ntook 2.0\n", [""])
    assert told == (FAILED, ["took 1.0", "took 2.0", "ratio is 2.0, more than 1.5"])
    state, words = evidence.with_figures(row, "took 0.1", [""])
    assert state == FAILED
    assert words[1:] == ["ratio is 0.1, less than 0.5", f"only 1 times, not 2: like `{figure.pattern}` was printed"]
    assert evidence.with_figures(row, "", [""]) == (FAILED, [f"nothing like `{figure.pattern}` was printed"])
