"""The example of a vendor's package goes through the whole job file: check, plan, and a run that really trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dougong.records.directory import RunDir
from dougong.records.events import PlanLaid
from tests.families import SMALLEST

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "accelerator-plugin"
JOB: dict[str, Any] = {
    "job": "plugin",
    "model": {"family": "qwen3_moe", "config": SMALLEST},
    "data": {"text": "stdlib", "sequence_length": 16},
    "batch": {"lanes": 2},
    "steps": 2,
    "islands": [{"name": "east", "accelerator": "hostsim", "workers": 2}],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's package where pip has installed it, and beside it one that does not load."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")  # a build leaves files behind
    folder = tmp_path_factory.mktemp("site-packages")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder))
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    subprocess.run(command, check=True, timeout=120)
    info = folder / "broken_vendor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-vendor\nVersion: 1.0\n")
    points = ["broken = no_such_vendor:Broken", "unsure = unsure_vendor:Unsure"]
    (info / "entry_points.txt").write_text("\n".join(["[dougong.accelerators]", *points]) + "\n")
    (folder / "unsure_vendor.py").write_text(
        "from dougong_hostsim import Hostsim\n\n\nclass Unsure(Hostsim):\n    name = 'unsure'\n\n"
        "    def worker_environment(self, threads, deterministic=True):\n        return None\n"
    )
    return folder


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


def dougong(*words: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *([str(packages)] if packages else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "dougong", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_job_may_name_it_where_its_package_is_installed(job_file: Path, package: Path) -> None:
    ended = dougong("check", str(job_file), packages=package)
    assert ended.returncode == 0, ended.stderr
    assert "2 on east (hostsim)" in ended.stdout
    ended = dougong("plan", str(job_file), packages=package)
    assert ended.returncode == 0, ended.stderr
    assert "hostsim" in ended.stdout and "HOSTSIM_EXACT=1" in ended.stdout


def test_elsewhere_the_job_is_refused_with_the_names_there_are(job_file: Path) -> None:
    ended = dougong("check", str(job_file))
    assert ended.returncode == 2
    assert (
        "islands.0.accelerator: must be 'cpu', 'cuda', 'rocm', 'npu', 'mlu', 'musa', 'gcu' or 'xpu' (got 'hostsim'); "
        "use one of them, or install a package that adds it as an entry point of dougong.accelerators" in ended.stderr
    )


def test_it_is_one_of_the_names_in_an_error(job_file: Path, package: Path) -> None:
    ended = dougong("check", str(job_file), "-o", "islands.east.accelerator=hostsin", packages=package)
    assert "'xpu', 'broken', 'hostsim' or 'unsure' (got 'hostsin'); did you mean 'hostsim'?" in ended.stderr


def test_one_that_does_not_load_is_named_with_its_reason_and_place(job_file: Path, package: Path) -> None:
    ended = dougong("check", str(job_file), "-o", "islands.east.accelerator=broken", packages=package)
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "-o islands.east.accelerator=broken: islands.0.accelerator: accelerator broken: entry point "
        "no_such_vendor:Broken does not load (ModuleNotFoundError: No module named 'no_such_vendor')"
    )


def test_one_that_answers_wrongly_is_named_with_its_method_and_the_rule(job_file: Path, package: Path) -> None:
    ended = dougong("check", str(job_file), "-o", "islands.east.accelerator=unsure", packages=package)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(
        "accelerator unsure: entry point unsure_vendor:Unsure of broken-vendor 1.0: worker_environment() has returned "
        "None (NoneType), and must return a mapping of variables (names without `=`) to texts, without NUL in "
        "either; correct it in the package "
    )
    assert len(ended.stderr.splitlines()) == 1
    planned = dougong("plan", str(job_file), "-o", "islands.east.accelerator=unsure", packages=package)
    assert (planned.returncode, planned.stdout, planned.stderr) == (2, "", ended.stderr)  # and no half a table


@pytest.mark.parametrize(("word", "name"), [("CPU", "cpu"), ("Hostsim", "hostsim"), ("nvidia", "cuda")])
def test_a_name_in_other_letters_is_told_the_right_one(job_file: Path, package: Path, word: str, name: str) -> None:
    ended = dougong("check", str(job_file), "-o", f"islands.east.accelerator={word}", packages=package)
    assert ended.returncode == 2 and f"(got '{word}'); did you mean '{name}'?" in ended.stderr


def test_a_run_trains_on_it(job_file: Path, package: Path, tmp_path: Path) -> None:
    """Its workers compute on the processor, so that the bits must be those of `accelerator: cpu`."""
    losses = {}
    for kind in ("hostsim", "cpu"):
        run_dir = tmp_path / kind
        words = ("run", str(job_file), "--no-ray", "--run-dir", str(run_dir), "-o", f"islands.east.accelerator={kind}")
        ended = dougong(*words, packages=package)
        assert ended.returncode == 0, ended.stderr
        losses[kind] = [(row["step"], row["loss"], row["grad_norm"]) for row in RunDir(run_dir).latest_metrics()]
    assert len(losses["hostsim"]) == 2
    assert losses["hostsim"] == losses["cpu"]
    plan = RunDir(tmp_path / "hostsim").read_plan()
    planned = [event for event in RunDir(tmp_path / "hostsim").read_events() if isinstance(event, PlanLaid)]
    assert planned[0].environment["east"]["HOSTSIM_EXACT"] == "1"
    assert plan is not None and [worker.device for worker in plan.workers] == ["hostsim:0", "hostsim:1"]


def test_a_run_goes_on_elsewhere_when_its_package_is_gone(job_file: Path, package: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ended = dougong("run", str(job_file), "--no-ray", "--run-dir", str(run_dir), packages=package)
    assert ended.returncode == 0, ended.stderr
    for reader in ("status", "report", "verify"):
        ended = dougong(reader, str(run_dir))
        assert ended.returncode == 0, ended.stderr
    ended = dougong("resume", str(run_dir), "--no-ray", "-o", "steps=3")
    assert ended.returncode == 2
    assert "the run has used hostsim, which no package that is installed here offers" in ended.stderr
    assert "install the package that adds it, or go on without: " in ended.stderr
    assert f"`dougong resume {run_dir} --no-ray -o steps=3 -o islands.east.accelerator=cpu`" in ended.stderr
    assert "release of dougong" not in ended.stderr
    words = ("-o", "steps=3", "-o", "islands.east.accelerator=cpu")
    ended = dougong("resume", str(run_dir), "--no-ray", *words)
    assert ended.returncode == 1
    assert "(experts: HostsimExperts then, plain products now), so the next steps have other bits" in ended.stderr
    following = ended.stderr.splitlines()[-1]
    assert following.endswith(f"dougong resume {run_dir} --no-ray {' '.join(words)}")
    ended = dougong("resume", str(run_dir), "--no-ray", *words, "-o", "numerics=bounded")
    assert ended.returncode == 0, ended.stderr
    assert "was computed by another recipe (experts: HostsimExperts then, plain products now)" in ended.stdout
    assert [row["step"] for row in RunDir(run_dir).latest_metrics()] == [1, 2, 3]
    plan = RunDir(run_dir).read_plan()
    assert plan is not None and [worker.device for worker in plan.workers] == ["cpu:0", "cpu:1"]
