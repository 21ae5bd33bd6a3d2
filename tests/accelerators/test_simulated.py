"""Whole jobs on simulated devices of two vendors, which can neither read each other's memory nor join each other's
collectives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.records.directory import RunDir
from dougong.records.events import FailureDiagnosed, LinksMeasured, WarningRaised
from tests.families import SMALLEST
from tests.simdev.accelerators import ROOT, offer

pytestmark = pytest.mark.simulated

STEPS = 4
LIMIT_S = 300
Rows = list[tuple[int, float, float]]


class Vendors:
    """A machine with devices of both, and what runs there."""

    def __init__(self, folder: Path, with_bridge: bool = False) -> None:
        self.folder = folder
        self._environment = offer(folder / "packages", with_bridge)
        self.settings: dict[str, str] = {}  # of the simulation, for what runs next

    def job(self, name: str, islands: list[dict[str, Any]], **changes: Any) -> Path:
        lanes = sum(island["workers"] for island in islands if island.get("role") != "experts")
        values = {
            "job": "vendors",
            "model": {"family": "qwen3_moe", "config": SMALLEST},
            "data": {"text": "stdlib", "sequence_length": 16},
            "batch": {"lanes": max(2, lanes)},
            "numerics": "bounded",
            "steps": STEPS,
            "islands": islands,
            **changes,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def run(self, name: str, islands: list[dict[str, Any]], **changes: Any) -> RunDir:
        path = self.folder / name
        ended = self.dougong("run", str(self.job(name, islands, **changes)), "--no-ray", "--run-dir", str(path))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return RunDir(path)

    def dougong(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dougong", *words]
        environment = {**self._environment, **self.settings, **variables}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def vendors(tmp_path_factory: pytest.TempPathFactory) -> Vendors:
    return Vendors(tmp_path_factory.mktemp("vendors"))


@pytest.fixture(scope="module")
def reference(vendors: Vendors) -> Rows:
    """The job on processors."""
    return rows_of(vendors.run("cpu", [island("cpu", workers=2)]))


def island(accelerator: str, role: str = "both", workers: int = 1) -> dict[str, Any]:
    return {"name": accelerator, "accelerator": accelerator, "role": role, "workers": workers}


def rows_of(run_dir: RunDir) -> Rows:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in RunDir(run_dir.path).latest_metrics()]


def close(rows: Rows, reference: Rows, tolerance: float) -> None:
    assert [row[0] for row in rows] == [row[0] for row in reference]
    for found, due in zip(rows, reference, strict=True):
        assert found[1:] == pytest.approx(due[1:], rel=tolerance)


def test_attention_on_one_vendor_and_experts_on_the_other(vendors: Vendors, reference: Rows) -> None:
    run_dir = vendors.run("apart", [island("sima", "attention", 2), island("simb", "experts", 2)])
    close(rows_of(run_dir), reference, 1e-4)


@pytest.mark.slow
def test_a_packages_bridge_between_the_vendors(vendors: Vendors, tmp_path: Path) -> None:
    """It is taken by itself where it joins, host memory elsewhere, and no bit depends on it."""
    islands = [island("sima", "attention", 2), island("simb", "experts"), island("cpu", "experts")]
    with_bridge = Vendors(tmp_path, with_bridge=True).run("bridged", islands)
    assert rows_of(with_bridge) == rows_of(vendors.run("staged", islands))
    (links,) = [event.links for event in with_bridge.read_events() if isinstance(event, LinksMeasured)]
    assert {link.islands: link.path for link in links} == {("sima", "simb"): "direct", ("sima", "cpu"): "host-staged"}
    assert "sockets, " in links[0].facts


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tolerance"), [("sima", 1e-6), ("simb", 3e-3), ("simnpu", 1e-5)])
def test_a_vendor_alone(kind: str, tolerance: float, vendors: Vendors, reference: Rows) -> None:
    close(rows_of(vendors.run(kind, [island(kind, workers=2)])), reference, tolerance)


@pytest.mark.slow
def test_all_of_a_job_on_one_device(vendors: Vendors, reference: Rows) -> None:
    """Attention and experts, two workers each, as on a machine with one card: nothing but gloo is between them."""
    islands = [island("sima", "attention", 2), island("sima", "experts", 2)]
    islands = [{**one, "name": one["role"], "devices": "shared"} for one in islands]
    run_dir = vendors.run("together", islands)
    plan = run_dir.read_plan()
    assert plan is not None and {worker.device for worker in plan.workers} == {"sima:0"}
    close(rows_of(run_dir), reference, 1e-6)


def test_both_vendors_and_processors_in_one_job(vendors: Vendors, reference: Rows) -> None:
    """Attention and experts on each vendor, and more experts on processors."""
    mixed = vendors.run("mixed", [island("sima"), island("simb"), island("cpu", "experts")])
    close(rows_of(mixed), reference, 1e-3)


@pytest.mark.slow
def test_new_weights_are_handed_on_within_a_vendor_and_beyond(vendors: Vendors) -> None:
    """What comes through host memory goes on by the vendor's library, and the other way round; weights that were not
    the same on all four would end the generation."""
    run_dir = vendors.run("handed-on", [island("sima", workers=2), island("simb", workers=2)], determinism="layout")
    assert len(rows_of(run_dir)) == STEPS
    assert not [event for event in run_dir.read_events() if isinstance(event, FailureDiagnosed)]


def test_a_lost_worker_and_a_resume_on_the_other_vendor(vendors: Vendors, reference: Rows) -> None:
    drill = {"drill": [{"kill": "sima/1", "at_step": 3}]}
    run_dir = vendors.run("lost", [island("sima", workers=2)], checkpoint={"every": 2}, **drill)
    assert [event.culprit.name for event in run_dir.read_events() if isinstance(event, FailureDiagnosed)] == ["sima/1"]
    close(rows_of(run_dir), reference, 1e-6)
    words = ("resume", str(run_dir.path), "--no-ray", "-o", "islands.sima.accelerator=simb", "-o", f"steps={STEPS + 2}")
    ended = vendors.dougong(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [row[0] for row in rows_of(run_dir)][-2:] == [STEPS + 1, STEPS + 2]


@pytest.mark.slow
def test_an_operator_that_runs_on_the_host_is_told_by_name(vendors: Vendors) -> None:
    """Once, though two workers run it in every layer of every step."""
    path = vendors.folder / "by host"
    words = ("run", str(vendors.job("by-host", [island("sima", workers=2)])), "--no-ray", "--run-dir", str(path))
    ended = vendors.dougong(*words, SIMDEV_BY_HOST="aten::silu")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = [event.text for event in RunDir(path).read_events() if isinstance(event, WarningRaised)]
    (said,) = [text for text in told if "runs on the host" in text]
    assert said.startswith("aten::silu.out has no kernel on sima and runs on the host, each time with a copy there")


@pytest.mark.slow
def test_masters_on_the_host_give_the_same_bits_through_a_lost_worker_and_a_resume(vendors: Vendors) -> None:
    host = {"optimizer": {"device": "host"}, "schedule": {"name": "constant"}, "precision": "bfloat16"}
    whole = vendors.run("host", [island("sima", workers=2)], steps=STEPS + 2, **host)
    drill = {"drill": [{"kill": "sima/1", "at_step": 3}], "checkpoint": {"every": 2}}
    lost = vendors.run("host-lost", [island("sima", workers=2)], **host, **drill)
    ended = vendors.dougong("resume", str(lost.path), "--no-ray", "-o", f"steps={STEPS + 2}", "-o", "drill=[]")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ledgers = [[row["ledger"] for row in run_dir.latest_metrics()] for run_dir in (whole, RunDir(lost.path))]
    assert ledgers[0] == ledgers[1] and len(ledgers[0]) == STEPS + 2
    ended = vendors.dougong("resume", str(lost.path), "--no-ray", "-o", "optimizer.device=worker", "-o", "steps=9")
    assert ended.returncode == 2 and "optimizer.device: host then, worker now" in ended.stdout + ended.stderr
