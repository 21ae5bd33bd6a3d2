"""The benchmarks' commands run; what they measure is no test's business."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.kept import KeptLines
from dougong.deadlines import DEADLINES
from dougong.tools.drill.lines import digest_of_software
from dougong.training.audit import Audit
from dougong.training.integrity.guard import Guard
from tests.programs import load

ROOT = Path(__file__).resolve().parent.parent


COMPILE_S = DEADLINES.compile_s


def run(*words: str, limit_s: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=limit_s)


@pytest.mark.slow
def test_one_worker_is_compared_with_a_plain_loop() -> None:
    ended = run("benchmarks/step.py", "--size", "small", "--experts", "grouped_mm", "--steps", "2")
    assert ended.returncode == 0, ended.stderr
    assert "ratio of tokens/s: median" in ended.stdout


@pytest.mark.slow
def test_the_price_of_determinism_is_measured() -> None:
    ended = run("benchmarks/determinism.py", "reduce", "--workers", "2", "--mebibytes", "1", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "sum and spread of 1 MiB, 2 workers, over gloo's all_reduce: median" in ended.stdout
    assert "spread of 1 MiB, 2 workers, over gloo's all_gather: median" in ended.stdout
    ended = run("benchmarks/determinism.py", "step", "--workers", "2", "--rows", "16", "--rounds", "2", "--steps", "1")
    assert ended.returncode == 0, ended.stderr
    assert "layout over off: median" in ended.stdout


def test_the_price_of_the_look_for_nan_is_measured() -> None:
    ended = run("benchmarks/finite.py", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "the decision, of a step: median" in ended.stdout
    assert "the look of a save, of its digests (beside training): median" in ended.stdout


@pytest.mark.slow
def test_flips_are_counted_and_the_price_of_seeing_them_is_measured() -> None:
    ended = run("benchmarks/integrity.py", "cost", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "sums of state and copies, of a step: median" in ended.stdout
    ended = run("benchmarks/integrity.py", "flips", "--count", "12")
    assert ended.returncode == 0 and "steps without a flip: 0 of 12 ended" in ended.stdout, ended.stdout
    ended = run("benchmarks/integrity.py", "audit", "--every", "2", "--count", "8")
    assert ended.returncode == 0, ended.stdout
    assert "once, in each of 8 steps: 0.500 seen before the commit, 1/2 = 0.500" in ended.stdout


def test_flips_that_nobody_compares_and_audits_left_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own controls: it is no pass where nothing is caught, or less than the formula gives."""
    integrity = load("integrity")
    assert integrity.flips(6, random.Random(1)) and integrity.audited(2, 8, 0.5, random.Random(1))
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "judge", lambda guard, step, words: None)
        assert not integrity.flips(6, random.Random(1))
    monkeypatch.setattr(Audit, "wants", lambda audit, result: result.step % 4 == 0)
    assert not integrity.audited(2, 8, 0.5, random.Random(1))


def test_a_share_is_held_against_what_its_formula_gives_of_so_many() -> None:
    likely = load("integrity").likely
    assert likely(50, 0.75) == (0.54, 0.92) and likely(50, 1.0) == (1.0, 1.0)
    assert likely(400, 0.25)[0] > 0.15 and likely(400, 0.25)[1] < 0.35


@pytest.mark.slow
@pytest.mark.simulated  # DeepSpeed's library is compiled
@pytest.mark.timeout(COMPILE_S + 100)
def test_the_update_on_the_host_is_compared_with_torchs() -> None:
    # The library is compiled here where it has not been: a minute of an idle machine.
    small = ("--numbers", "100", "--tensors", "3", "--rounds", "2")
    ended = run("benchmarks/optimizer.py", *small, limit_s=COMPILE_S)
    assert ended.returncode == 0, ended.stderr
    assert "host over torch: median" in ended.stdout and "3 tensors of 100 numbers" in ended.stdout


def test_planning_is_measured_by_the_number_of_workers() -> None:
    ended = run("benchmarks/scale.py", "--workers", "8", "64", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "make_plan: 8: " in ended.stdout and "simulate: 8: " in ended.stdout
    assert ended.stdout.count("a worker's time") == len(ended.stdout.splitlines())


def test_a_benchmark_that_prints_a_spread_refuses_one_round() -> None:
    for name in ("optimizer", "bridge", "scale"):
        ended = run(f"benchmarks/{name}.py", "--rounds", "1")
        assert ended.returncode == 2 and "--rounds: at least 2" in ended.stderr, ended.stderr


@pytest.mark.lab
def test_a_message_between_islands_is_held_against_the_slowest_leg() -> None:
    words = ("--rounds", "2", "--mebibytes", "1", "--connections", "1", "--cases", "balanced")
    ended = run("benchmarks/bridge.py", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("balanced: wire 100 MB/s, copies 100 MB/s")
    for form in ("wire alone", "whole", "chunks, 1 connection"):
        assert re.search(rf"1 MiB {form} .* MB/s, of the slowest leg \d\.\d\d, ", ended.stdout), ended.stdout


@pytest.mark.lab
def test_an_unknown_case_of_the_bridge_is_refused() -> None:
    ended = run("benchmarks/bridge.py", "--cases", "balance")
    assert ended.returncode == 2 and "slow wire" in ended.stderr


@pytest.mark.slow
def test_the_price_of_snapshots_is_measured() -> None:
    ended = run("benchmarks/snapshots.py", "--workers", "2", "--rounds", "2", "--steps", "1")
    assert ended.returncode == 0, ended.stderr
    assert "with snapshots over without: median" in ended.stdout and "MB of state sent a step" in ended.stdout


def test_rehearsed_faults_are_counted(tmp_path: Path) -> None:
    """What has been measured before is told again; whole schedules are `tests/tools/drill`'s."""
    file, words = tmp_path / "recovery.jsonl", ("--n", "0", "--folder", str(tmp_path))
    kill = {"part": "kill", "phases": {"noticed_s": 0.02}, "right": True, "tier": "own", "load": 1.5}
    for seconds in (0.5, 0.7, 0.4):
        KeptLines(file).add(kill | {"seconds": seconds})
    with file.open("a") as others:
        others.write(
            json.dumps(kill | {"seconds": 90.0}) + "\n" + json.dumps(kill | {"seconds": 9.0, "code": "x"}) + "\n"
        )
    ended = run("benchmarks/recovery.py", "--only", "drills", *words)
    assert ended.returncode == 0, ended.stderr
    assert "0 of 0 schedules done" in ended.stdout
    assert "kill: median 0.50 s, worst 0.70 s, n 3, load 1.5 to 1.5; noticed 0.020" in ended.stdout
    assert f"2 lines are of another software than {digest_of_software()}, and do not count" in ended.stdout
    KeptLines(file).add(kill | {"seconds": None, "right": False})
    ended = run("benchmarks/recovery.py", "--only", "kill", *words)
    assert ended.returncode == 1, ended.stderr
    assert (
        "median 0.50 s, worst 0.70 s, n 4" in ended.stdout
        and "kill: one was not right, or not got over" in ended.stdout
    )


def test_damages_of_another_software_are_done_again(tmp_path: Path) -> None:
    record = tmp_path / "corruption.jsonl"
    words = ("benchmarks/corruption.py", "--number", "4", "--peer", "0", "--record", str(record))
    assert "dougong: 4 damages" in run(*words).stdout
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 3] and {line["code"] for line in lines} == {
        digest_of_software()
    }
    run(*words)
    assert len(record.read_text().splitlines()) == 4, "what this software has done is not done again"
    record.write_text("".join(json.dumps(line | {"code": "another"}) + "\n" for line in lines))
    ended = run(*words)
    assert "4 lines are of another software" in ended.stdout
    assert len(record.read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ("efficiency", "--layers", "2", "--microbatches", "2", "--unit-ms", "2"),
            "zebra: bound / measured: median",
            marks=pytest.mark.slow,
        ),
        (("overhead",), "sending or receiving a message to oneself, microseconds: median"),
    ],
)
def test_schedules_are_measured_on_emulated_devices(words: tuple[str, ...], said: str) -> None:
    ended = run("benchmarks/afd.py", *words, "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert said in ended.stdout


def test_a_missing_peer_is_named_with_what_to_install() -> None:
    """As on a machine that has what the Makefile installs for users."""
    program = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *more: None if name == 'accelerate' else find(name, *more); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    asked = ["benchmarks/expert_parallel.py", "--peers", "transformers", "--rounds", "2", "--steps", "1"]
    words = [sys.executable, "-c", program, *asked]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode != 0
    assert "without accelerate: benchmarks/requirements.txt" in ended.stdout + ended.stderr


def test_without_a_gpu_the_grouped_products_say_what_they_need() -> None:
    words = [sys.executable, "benchmarks/grouped.py", "--size", "tiny"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, env=hidden)
    assert ended.returncode == 1
    assert ended.stderr.startswith("benchmarks/grouped.py needs an NVIDIA GPU")


@pytest.mark.gpu
def test_grouped_products_are_compared() -> None:
    ended = run("benchmarks/grouped.py", "--size", "tiny", "--tokens", "512", "--rounds", "3")
    assert ended.returncode == 0, ended.stderr
    assert "bits of dougong: equal in a second run, equal for half of the tokens alone" in ended.stdout
    assert "layer: ratio to" in ended.stdout


def test_the_controllers_work_is_measured() -> None:
    ended = run("benchmarks/control_plane.py", "--nodes", "1", "3", "--seconds", "0.5", "--rounds", "2")
    assert ended.returncode == 0, ended.stderr
    assert "3 nodes, 24 workers: " in ended.stdout and "% of a core (" in ended.stdout


@pytest.mark.slow
def test_recomputation_is_compared_with_keeping() -> None:
    ended = run("benchmarks/recompute.py", "--layers", "3", "--hidden", "64", "--tokens", "32", "--steps", "2")
    assert ended.returncode == 0, ended.stderr
    assert "time of layers over none: median" in ended.stdout and "peak of an attention worker" in ended.stdout
