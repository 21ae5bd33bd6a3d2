"""The example of attention and experts apart, through the command line: to the bits of one worker, with offload too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from tests.launcher.jobs import ROOT

SHORT = ("steps=3", "schedule.warmup_steps=1", "batch.microbatches=2", "checkpoint.every=0")
ONE = ("islands=[{name: east, accelerator: cpu}]",)


def losses(path: Path, *changes: str) -> list[tuple[float, float]]:
    overrides = [word for change in (*SHORT, *changes) for word in ("-o", change)]
    words = ["dougong", "run", "examples/afd.yaml", "--no-ray", "--run-dir", str(path), *overrides]
    ended = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    return [(row["loss"], row["grad_norm"]) for row in RunDir(path).read_metrics()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    return losses(tmp_path_factory.mktemp("alone") / "run", *ONE)


@pytest.mark.parametrize(
    ("changes", "experts"),
    [
        ((), [[()] * 3, [()] * 3, [range(8)] * 3, [range(8, 16)] * 3]),
        pytest.param(
            ("offload=3", "islands.west.workers=1", "islands.east.speed.attention=1.0"),
            [[(0, 1), (0,), (0, 1)], [(2,), (1, 2), (2,)], [range(3, 16)] * 3],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["as it stands", "offload"],
)
def test_the_example_trains_to_the_bits_of_one_worker(
    alone: list[tuple[float, float]], tmp_path: Path, changes: tuple[str, ...], experts: list[list[Iterable[int]]]
) -> None:
    assert losses(tmp_path / "run", *changes) == alone
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [w["experts"] for w in plan["workers"]] == [[list(site) for site in worker] for worker in experts]
