"""Checks outlive the library of a device that crashes or never returns: each is named, and the others are run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil
import pytest
from dougong.conform.kit.crew import Examination, run_part
from dougong.conform.kit.report import examine
from dougong.conform.record import CheckOutcome
from dougong.deadlines import DEADLINES
from dougong.errors import DeviceError

SOURCE = """
import os, signal, sys, time
from dougong.accelerators.cpu import Cpu
from dougong.errors import DeviceError
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert

class Crashing(ByBlock):
    def forward(self, *arguments):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hanging(ByBlock):
    def forward(self, *arguments):
        time.sleep(1000)

class Leaving(ByBlock):
    def forward(self, *arguments):
        print("the library has given up", file=sys.stderr, flush=True)
        os._exit(7)

class Bad(Cpu):
    name = "bad"

    def expert_operators(self):
        for kind in (Crashing, Hanging, Leaving, ByBlock):
            yield kind(SwiGLUExpert())

class Closed(Cpu):
    name = "closed"

    def open(self, index, deterministic=True):
        os.kill(os.getpid(), signal.SIGABRT)

class Refused(Cpu):
    name = "refused"

    def open(self, index, deterministic=True):
        raise DeviceError(f"accelerator refused: {'no card, ' * 50}and no driver; buy one")

class Mistaken(Cpu):
    name = "mistaken"

    def open(self, index, deterministic=True):
        return index + "0"

class Unsure(Cpu):
    name = "unsure"

    def memory_bytes(self):
        return "80 GB"

class Absent(Cpu):
    name = "absent"

    def device_count(self, visible=None):
        return 0

    def missing(self):
        return "its plug-in is not installed"
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerators of another package, for this process and those that it starts."""
    info = tmp_path / "bad_devices-1.0.dist-info"
    info.mkdir()
    (tmp_path / "bad_devices.py").write_text(SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-devices\nVersion: 1.0\n")
    names = ("bad", "closed", "refused", "mistaken", "unsure", "absent")
    points = [f"{name} = bad_devices:{name.capitalize()}" for name in names]
    (info / "entry_points.txt").write_text("\n".join(["[dougong.accelerators]", *points]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_crash_and_a_hang_are_named_and_the_others_are_run(offered: None) -> None:
    deadlines = dataclasses.replace(DEADLINES, conform_check_s=30.0)
    told = list(run_part("alone", Examination("bad", deadlines=deadlines)))
    found = {one.name: one for one in told if isinstance(one, CheckOutcome)}
    (crash,) = found["Crashing, fused form 1"].words
    assert crash.startswith("its process ended by SIGSEGV")
    assert found["Hanging, fused form 2"].words == ("it did not return within 30 s, and was ended",)
    assert found["Leaving, fused form 3"].words == ("its process ended with status 7: the library has given up",)
    assert found["ByBlock, fused form 4"].grade == "sound"
    bad = [one for one in found.values() if one.grade == "unsound"]
    assert len(bad) == 3 and {one.group for one in bad} == {"experts"} and len(found) > 100


@pytest.mark.slow
def test_a_device_that_does_not_open_is_an_error(offered: None) -> None:
    told = "^accelerator closed: its process ended by SIGABRT, before a check had begun; look at the device, or at"
    with pytest.raises(DeviceError, match=told):
        list(run_part("alone", Examination("closed")))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("refused", rf"^accelerator refused: {'no card, ' * 50}and no driver; buy one$"),
        (
            "mistaken",
            r"^accelerator mistaken: .* of bad-devices 1.0: open\(\) has raised TypeError: .*; correct it in the",
        ),
    ],
)
def test_why_a_device_does_not_open_is_told_whole_and_once(offered: None, name: str, told: str) -> None:
    with pytest.raises(DeviceError, match=told) as caught:
        list(run_part("alone", Examination(name)))
    assert str(caught.value).count("accelerator ") == 1


def test_answers_that_are_none_are_told_before_anything_is_checked(offered: None) -> None:
    with pytest.raises(
        DeviceError, match=r"memory_bytes\(\) has returned '80 GB' \(str\), and must return a whole number"
    ):
        examine(Examination("unsure"), lambda told: pytest.fail(f"{told} was checked"))


def test_a_machine_without_such_a_device_is_an_error(offered: None) -> None:
    with pytest.raises(DeviceError, match=r"absent: this machine has no such device \(its plug-in is not installed\)"):
        list(run_part("alone", Examination("absent")))


@pytest.mark.slow
def test_no_process_is_left_where_nobody_listens_any_more() -> None:
    before = psutil.Process().children(recursive=True)
    telling = run_part("alone", Examination("cpu"))
    next(telling)
    assert len(psutil.Process().children(recursive=True)) == len(before) + 1
    telling.close()
    assert psutil.Process().children(recursive=True) == before
