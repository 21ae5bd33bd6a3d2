"""Whole runs whose devices tell of faults, on a kind of device that a test plays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault
from tests.accelerators.pretended import NAME, offer
from tests.launcher.toyrun import ROOT, ToyRun, toy_job, wait_for

LOST = DeviceFault("Code 79", "it has fallen off its bus", "give_up")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_device_that_is_lost_is_used_no_more_and_another_one_takes_its_place(tmp_path: Path) -> None:
    """Three devices, two workers. Its agent is laid out anew without it; `status` and the next life know it, too."""
    devices = offer(tmp_path / "installed", count=3)
    job = toy_job(islands=[{"name": "east", "accelerator": NAME, "workers": 2}], steps=150, step_s=0.05)
    run = ToyRun(tmp_path / "run", job, environment={"PYTHONPATH": str(devices.folder)}).start()
    run.await_step(5)
    devices.say(1, LOST)
    wait_for(lambda: run.events("device_quarantined"), "the device is given up")
    assert run.finish(300) == 0, run.text()
    (diagnosis,), (aside,) = run.events("diagnosis"), run.events("device_quarantined")
    assert (diagnosis["culprit"]["kind"], diagnosis["culprit"]["name"], diagnosis["class"]) == (
        "device", "PRE-1", "device",
    )  # fmt: skip
    assert (aside["worker"], aside["accelerator"], aside["key"]) == ("east/1", NAME, "PRE-1")
    # The device is given up, and its agent laid out anew on its own machine.
    assert [event["action"] for event in run.events("decision")] == ["quarantine", "restart"]
    status = run.run_dir.read_status()
    assert status is not None and len(status.quarantine) == 1
    assert {worker.device for worker in status.workers} == {f"{NAME}:0", f"{NAME}:2"}
    shown = subprocess.run(
        [sys.executable, "-m", "dougong", "status", str(run.path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "in quarantine: PRE-1 on " in shown.stdout + shown.stderr

    again = ToyRun(tmp_path / "run", job, environment={"PYTHONPATH": str(devices.folder)})
    again.start("resume", "-o", "steps=155")
    assert again.finish(300) == 0, again.text()
    status = run.run_dir.read_status()
    assert status is not None and {worker.device for worker in status.workers} == {f"{NAME}:0", f"{NAME}:2"}
    devices.repair()
    lifted = ToyRun(tmp_path / "run", job, environment={"PYTHONPATH": str(devices.folder)})
    lifted.start("resume", "-o", "steps=160", "-o", "fault.quarantine.lift=[PRE-1]")
    assert lifted.finish(300) == 0, lifted.text()
    status = run.run_dir.read_status()
    assert status is not None and {worker.device for worker in status.workers} == {f"{NAME}:0", f"{NAME}:1"}
