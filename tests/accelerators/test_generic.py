"""An accelerator that is data alone: a whole one on torch's processor backend, and every way in which it fails."""

import operator
import types
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from dougong.accelerators.facts import Default, PeakRates
from dougong.accelerators.generic import GenericAccelerator
from dougong.errors import DeviceError


class Toy(GenericAccelerator):
    """Facts alone, about a plug-in that a test installs."""

    name = "toy"
    title = "toys"
    device_type = "cpu"
    plugin = "toy_plugin"
    package = "toy-plugin"
    install = "buy one"
    backend = "toyccl"
    interface_variable = "TOYCCL_IFNAME"
    resource = "TOY"
    visible_devices_variable = "TOY_VISIBLE_DEVICES"
    tool = "toy-smi"
    environment: ClassVar = {"TOY_MODE": "plain"}
    deterministic_environment: ClassVar = {"TOY_EXACT": "1"}
    exact_switches: ClassVar = {"backends.mkldnn.enabled": True}
    defaults = (Default("TOY_MEMORY", "large", ("TOY_OLD_MEMORY",)),)
    peak_rates = (PeakRates("Toy 1", {"float32": 1e9}, "the box"),)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """With its plug-in installed, four devices of which torch sees two, and nothing opened for good."""
    install(tmp_path, torch.__version__.partition("+")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    for index in range(4):
        (tmp_path / f"toy{index}").touch()
    monkeypatch.setattr(Toy, "device_files", f"{tmp_path}/toy[0-9]")
    module = types.SimpleNamespace(device_count=lambda: 2, set_device=lambda index: None)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    return Toy()


def install(folder: Path, torch_version: str, source: str = "") -> None:
    (folder / "toy_plugin.py").write_text(source)
    info = folder / "toy_plugin-1.0.dist-info"
    info.mkdir(exist_ok=True)
    wish = f"Requires-Dist: torch=={torch_version}.*"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n{wish}\n")


def test_data_is_enough(toy: Toy) -> None:
    assert toy.device_count() == 4 and toy.device_count("3,1") == 2
    assert toy.describe() == {"name": "toy0, toy1, toy2, toy3", "driver": "", "toy-plugin": "1.0"}
    assert toy.missing() == ""
    exact = toy.worker_environment(2)
    assert (exact["OMP_NUM_THREADS"], exact["TOY_MODE"], exact["TOY_EXACT"]) == ("2", "plain", "1")
    assert "TOY_EXACT" not in toy.worker_environment(2, deterministic=False)
    assert toy.interface_variables("eth7") == {"TOYCCL_IFNAME": "=eth7"} and toy.interface_variables(None) == {}
    assert toy.open(1, deterministic=False) == torch.device("cpu", 1)


def test_more_workers_than_devices(toy: Toy) -> None:
    with pytest.raises(DeviceError, match=r"device 2 is asked for, torch sees 2; .* has 4 of them .*widen TOY_VISIBLE"):
        toy.open(2)


def test_a_switch_that_the_library_does_not_have(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "exact_switches", {"backends.toy.matmul.allow_tf32": False})
    with pytest.raises(
        DeviceError,
        match=r"exact_switches: torch\.backends\.toy\.matmul\.allow_tf32 is not there .*correct its name, .*set determ",
    ):
        toy.make_exact()


@pytest.mark.parametrize("place", ["backends.mkldnn", "nn.functional.silu", "backends.cuda.matmul"])
def test_a_switch_that_is_none(toy: Toy, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    before = operator.attrgetter(place)(torch)
    monkeypatch.setattr(Toy, "exact_switches", {place: False})
    with pytest.raises(DeviceError, match=rf"exact_switches: torch\.{place} is a .*, and no switch; .*True or False"):
        toy.make_exact()
    assert operator.attrgetter(place)(torch) is before


def test_a_process_of_another_vendor_s_device(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    with pytest.raises(DeviceError, match="knows the device xpu in this process, not cpu; .*an environment of its own"):
        toy.open(0)


def test_a_type_that_is_the_processor_s_is_no_device_that_torch_opens(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    with pytest.raises(
        DeviceError, match=r"device_type is cpu, which is the processor, .*; have it|an open\(\) of its"
    ):
        toy.open(0)


def test_what_a_library_says_stays_on_one_line(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int) -> None:
        raise RuntimeError("no context\n  (status 3)\n")

    module = types.SimpleNamespace(device_count=lambda: 2, set_device=refuse)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    with pytest.raises(DeviceError, match=r"device 1 does not open \(no context \(status 3\)\); .*toy-smi$"):
        toy.open(1)


class Older(Toy):
    """Its plug-in is made for a torch that is not installed."""

    plugin = "older_plugin"
    package = "older-plugin"


def test_a_plug_in_for_another_torch_is_refused_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "older_plugin-2.6.0.dist-info"
    info.mkdir()
    wish = "Requires-Dist: torch==2.6.0"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: older-plugin\nVersion: 2.6.0\n{wish}\n")
    (tmp_path / "older_plugin.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    here = torch.__version__.partition("+")[0]
    told = (
        rf"older-plugin 2.6.0 is made for torch 2.6.0, and torch {here} is installed: pip install 'older-plugin=={here}"
    )
    with pytest.raises(DeviceError, match=f"accelerator toy: {told}"):
        Older().open(0)
    assert Older().missing().startswith("older-plugin 2.6.0 is made for torch 2.6.0")


class Unpacked(Toy):
    """Nothing has to be installed for it."""

    package = ""


def test_nothing_is_missing_where_there_is_no_package() -> None:
    assert Unpacked().missing() == "" and "toy-plugin" not in Unpacked().describe()


class Broken(Toy):
    """Its plug-in raises."""

    plugin = "broken_plugin"
    package = "broken-plugin"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import libtoy", "ModuleNotFoundError: No module named 'libtoy'"),
        ("import sys; sys.exit('no driver')", "SystemExit: no driver"),
        ("raise RuntimeError('Two accelerators cannot be used at the same time')", "RuntimeError: Two accelerators"),
    ],
)
def test_a_plug_in_that_does_not_load(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeviceError, match=rf"broken_plugin does not load \({reason}.*; buy one"):
        Broken().open(0)
