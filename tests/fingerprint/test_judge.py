"""Who may replace whom: tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.fingerprint.judge import judge_resume, judge_workers, record
from dougong.fingerprint.record import UNSTABLE, Fingerprint


def make(bits: str, threads: str = "1", question: str = "r") -> Fingerprint:
    return Fingerprint({"gemm": bits, "exp": "same"}, question, {"threads": threads, "torch": "2.13"})


A, B, C = make("a"), make("b", "2"), make("c")
RESTLESS = make(UNSTABLE)


# roles and fingerprints of the workers e/0, e/1, ...; the roles that are not equal
TABLE: list[tuple[str, str, list[Fingerprint], set[str]]] = [
    ("all equal", "BBB", [A, A, A], set()),
    ("two roles, two classes", "AAEE", [A, A, B, B], set()),
    ("attention is split", "AAEE", [A, B, C, C], {"attention"}),
    ("experts are split", "AAEE", [C, C, A, B], {"experts"}),
    ("both are split", "AAEE", [A, B, A, B], {"attention", "experts"}),
    ("both counts in attention", "BAE", [A, B, A], {"attention"}),
    ("both counts in experts", "BAE", [A, A, B], {"experts"}),
    ("both counts in both", "BAE", [A, B, B], {"attention", "experts"}),
]
NAMES = {"A": "attention", "E": "experts", "B": "both"}


@pytest.mark.parametrize(("roles", "prints", "split"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("strict", [True, False])
def test_within_a_role_all_are_of_one_class(
    roles: str, prints: list[Fingerprint], split: set[str], strict: bool
) -> None:
    workers = [f"e/{i}" for i in range(len(roles))]
    by_worker = dict(zip(workers, (NAMES[r] for r in roles), strict=True))
    verdict = judge_workers(dict(zip(workers, prints, strict=True)), by_worker, strict)
    told = verdict.refusal or "" if strict else "\n".join(verdict.warnings)
    assert {role for role in ("attention", "experts") if f"of role {role}" in told} == split
    assert (verdict.refusal is not None) == (strict and bool(split))
    assert ("numerics=bounded" in told) == (strict and bool(split))


def test_a_refusal_lists_the_workers_the_probes_and_the_environment() -> None:
    prints = {"east/0": A, "east/1": A, "west/0": B}
    text = judge_workers(prints, dict.fromkeys(prints, "both"), True).refusal or ""
    assert f"class {A.kernel_class}: east/0-1" in text
    assert f"class {B.kernel_class}: west/0" in text
    assert "1 of 2 probes differ: gemm" in text
    assert "threads: 1 | 2" in text
    assert "torch" not in text


def test_a_refusal_names_the_machines_of_the_workers_where_there_are_several() -> None:
    prints = {"east/0": A, "east/1": A, "east/2": A, "west/0": B}
    machines = {"east/0": "node0", "east/1": "node0", "east/2": "node1", "west/0": "node1"}
    text = judge_workers(prints, dict.fromkeys(prints, "both"), True, machines).refusal or ""
    assert f"class {A.kernel_class}: east/0-1 on node0, east/2 on node1\n" in text
    assert f"class {B.kernel_class}: west/0 on node1\n" in text
    restless = {"e/0": RESTLESS, "e/1": RESTLESS}
    text = judge_workers(restless, dict.fromkeys(restless, "both"), True, {"e/0": "n0", "e/1": "n1"}).refusal or ""
    assert text.startswith("e/0 on n0, e/1 on n1: the same call gives different bits")


@pytest.mark.parametrize(("strict", "repeats"), [(True, True), (True, False), (False, True)])
def test_an_unstable_probe_is_named_and_refused_though_all_have_it(strict: bool, repeats: bool) -> None:
    roles = {"e/0": "both", "e/1": "both"}
    text = judge_workers(dict.fromkeys(roles, RESTLESS), roles, strict, repeats=repeats).refusal or ""
    assert text.startswith("e/0-1: the same call gives different bits from one time to the next: gemm\n")
    assert "another model.attention" in text and "-o numerics=bounded" in text


def test_an_unstable_probe_is_told_where_nothing_is_promised() -> None:
    verdict = judge_workers({"e/0": RESTLESS, "e/1": RESTLESS}, {"e/0": "both", "e/1": "both"}, False)
    assert verdict.refusal is None
    (warning,) = verdict.warnings
    assert warning.startswith("e/0-1: ") and warning.endswith(": gemm")


def test_what_is_not_promised_is_told_beside_a_refusal() -> None:
    prints = {"e/0": A, "e/1": RESTLESS}
    verdict = judge_workers(prints, dict.fromkeys(prints, "both"), False, repeats=True)
    assert verdict.refusal is not None and "of role" not in verdict.refusal
    assert len(verdict.warnings) == 2 and all("of role" in text for text in verdict.warnings)


def kept(attention: Fingerprint, experts: Fingerprint) -> dict[str, object]:
    return record({"a/0": attention, "e/0": experts}, {"a/0": "attention", "e/0": "experts"})


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [
        ({}, {}, []),
        (kept(A, B), kept(A, B), []),
        (kept(A, A), record({"b/0": A}, {"b/0": "both"}), []),
        (kept(A, B), kept(A, C), ["experts"]),
        (kept(A, B), kept(B, A), ["attention", "experts"]),
        (kept(A, B), record({"b/0": A}, {"b/0": "both"}), ["experts"]),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_goes_on_in_its_own_classes(
    before: dict[str, object], now: dict[str, object], moved: list[str], strict: bool
) -> None:
    verdict = judge_resume(before, now, strict)
    told = (verdict.refusal or "") if strict else "\n".join(verdict.warnings)
    assert [role for role in ("attention", "experts") if f"role {role}: the checkpoint was" in told] == moved
    assert (verdict.refusal is not None) == (strict and bool(moved))
    assert bool(verdict.warnings) == (not strict and bool(moved))


def test_a_refused_resume_says_what_differs_and_what_to_type() -> None:
    text = judge_resume(kept(A, A), kept(A, B), True).refusal or ""
    assert f"class {A.kernel_class}, these workers are {B.kernel_class}" in text
    assert "probes differ: gemm" in text
    assert "threads: 1 | 2" in text
    assert "-o numerics=bounded" in text


OTHER_QUESTION = kept(make("a", question="s"), make("b", "2", question="s"))
OTHER_VERSION = kept(replace(A, version=7, question="s"), replace(A, version=7, question="s"))


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        ({}, kept(A, A), "no fingerprint was taken of the checkpoint, so nothing says"),
        (kept(A, A), {}, "no fingerprint was taken of these workers, so nothing says"),
        (kept(A, A), OTHER_QUESTION, "by other probes (version 2 then, 2 now)"),
        (OTHER_VERSION, kept(A, A), "by other probes (version 7 then, 2 now)"),
    ],
)
def test_what_was_not_measured_alike_is_not_equal(before: dict[str, object], now: dict[str, object], text: str) -> None:
    strict = judge_resume(before, now, True)
    assert strict.refusal is not None and text in strict.refusal
    assert "go on with the dougong that wrote it, or accept" in strict.refusal
    (warning,) = judge_resume(before, now, False).warnings
    assert text in warning and warning.endswith("go on with the dougong that wrote it")


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ({"gemm": "none", "exp": "same"}, "e/0-1: 1 probe cannot run, so nothing says which bits these kernels give: "),
        (
            {"gemm": "cannot run: RuntimeError: no bfloat16", "exp": "none"},
            "gemm (RuntimeError: no bfloat16); exp (no k",
        ),
    ],
)
def test_a_probe_that_cannot_run_is_not_equal_to_itself(others: dict[str, str], text: str) -> None:
    prints = dict.fromkeys(("e/0", "e/1"), Fingerprint(others, "r"))
    roles = dict.fromkeys(prints, "both")
    refusal = judge_workers(prints, roles, True).refusal or ""
    assert text in refusal and "-o numerics=bounded" in refusal
    bounded = judge_workers(prints, roles, False)
    assert bounded.refusal is None and text in bounded.warnings[0]


def test_workers_that_were_asked_otherwise_are_not_equal() -> None:
    prints = {"e/0": A, "e/1": replace(A, question="s")}
    refusal = judge_workers(prints, dict.fromkeys(prints, "both"), True).refusal or ""
    assert "not given the same probes" in refusal and "e/0 | e/1" in refusal
