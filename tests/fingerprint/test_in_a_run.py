"""Whole runs: workers whose kernels differ, checkpoints that others go on from, another thread count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.manifest import Manifest
from tests.families import SMALLEST
from tests.launcher.toyrun import ToyRun, toy_job


def islands(*roles: str) -> list[dict[str, Any]]:
    names = ("east", "west")
    return [{"name": n, "accelerator": "cpu", "role": r} for n, r in zip(names, roles, strict=False)]


def warnings(run: ToyRun) -> str:
    return "\n".join(event["text"] for event in run.events("warning"))


OTHER = {"west": "other"}


@pytest.mark.parametrize(
    ("roles", "changes", "refused", "warned"),
    [
        (("both", "both"), {}, True, False),
        (("both", "both"), {"numerics": "bounded"}, False, True),
        (("both", "both"), {"determinism": "run"}, False, True),
        (("attention", "experts"), {}, False, False),
    ],
)
def test_workers_whose_kernels_differ(
    tmp_path: Path, roles: tuple[str, str], changes: dict[str, str], refused: bool, warned: bool
) -> None:
    run = ToyRun(tmp_path / "run", toy_job(islands=islands(*roles), kernels=OTHER, steps=5, **changes)).start()
    assert run.finish() == (1 if refused else 0), run.text()
    (event,) = run.events("fingerprints")
    assert list(event["classes"]) == ["east/0", "west/0"]
    assert len(set(event["classes"].values())) == 2
    assert ("-o numerics=bounded" in run.text()) == refused
    assert ("probes differ: adding" in warnings(run)) == warned
    assert bool(run.events("generation_started")) != refused


def test_nobody_looks_where_nothing_is_promised(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(kernels=OTHER, steps=5, determinism="off")).start()
    assert run.finish() == 0, run.text()
    assert run.events("fingerprints") == []
    assert Manifest.load(run.run_dir.checkpoints / "step-000005").metadata["kernels"] == {}


def test_an_agent_that_joins_later_is_looked_at_too(tmp_path: Path) -> None:
    faults = [{"do": "kill_agent", "worker": "west/0", "step": 8, "generation": 1}]
    run = ToyRun(tmp_path / "run", toy_job(islands=islands("both", "both"), faults=faults)).start()
    assert run.finish() == 0, run.text()
    first, second = run.events("fingerprints")
    assert first["classes"] == second["classes"]
    assert second["generation"] == 1  # before the next one begins


def test_a_checkpoint_goes_on_in_its_own_class_or_says_so(tmp_path: Path) -> None:
    job = toy_job(islands=islands("both"), kernels=OTHER, steps=10)
    run = ToyRun(tmp_path / "run", job).start()
    assert run.finish() == 0, run.text()
    header = Manifest.load(run.run_dir.checkpoints / "step-000010").metadata["kernels"]
    (name,) = header["prints"]
    assert header["roles"] == {"attention": [name], "experts": [name]}
    assert header["prints"][name]["probes"] == {"adding": "same", "multiplying": "same"}

    west = ("-o", "steps=15", "-o", "islands=[{name: west, accelerator: cpu}]")
    assert run.start("resume", *west).finish() == 1, run.text()
    assert "step-000010: role attention: the checkpoint was computed in class " + name in run.text()
    assert "threads: same threads | other threads" in run.text()
    assert "-o numerics=bounded" in run.text()

    assert run.start("resume", *west, "-o", "numerics=bounded").finish() == 0, run.text()
    assert "these workers are" in warnings(run)
    assert run.run_dir.read_status().step == 15  # type: ignore[union-attr]
    assert name not in Manifest.load(run.run_dir.checkpoints / "step-000015").metadata["kernels"]["prints"]


@pytest.mark.slow
def test_a_real_run_goes_on_with_another_thread_count_only_when_told_so(tmp_path: Path) -> None:
    job = {
        "job": "threads",
        "model": {"family": "qwen3_moe", "config": SMALLEST},
        "data": {"text": "stdlib", "sequence_length": 16},
        "batch": {"lanes": 2},
        "steps": 2,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
    }
    quiet = {"OMP_WAIT_POLICY": "PASSIVE"}
    run = ToyRun(tmp_path / "run", job, ("--train",), quiet).start()
    assert run.finish(240) == 0, run.text()
    wider = ("-o", "steps=3", "-o", "islands.east.threads=2")
    assert run.start("resume", *wider).finish(240) == 1, run.text()
    assert "layer_norm float32" in run.text()
    assert "threads: 1 | 2" in run.text()
    assert "$OMP_NUM_THREADS: 1 | 2" in run.text()
    assert run.start("resume", *wider, "-o", "numerics=bounded").finish(240) == 0, run.text()
    assert [row["step"] for row in run.run_dir.read_metrics()] == [1, 2, 3]
    assert "threads: 1 | 2" in warnings(run)
