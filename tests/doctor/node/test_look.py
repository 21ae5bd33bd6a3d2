"""What this machine says of itself."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.addresses import Ports
from dougong.deadlines import DEADLINES
from dougong.doctor.facts import LookQuestion, Post
from dougong.doctor.node.look import (
    look,
    look_at_devices,
    look_at_network,
    look_at_storage,
    machine_here,
)


def test_all_of_it_at_once(tmp_path: Path) -> None:
    here, gone = str(tmp_path), str(tmp_path / "gone")
    found = look(LookQuestion("n0", (Post("cpu", "cpu", 1),), None, here, DEADLINES, files=(here, gone)))
    assert found.host == socket.gethostname() and found.machine == machine_here()
    assert found.versions["python"] and found.code["dougong"].digests
    assert found.absent == (gone,)
    assert found.folder.place == here and found.folder.free_bytes and not found.folder.problem
    (device,) = found.devices
    assert device.accelerator == "cpu" and device.count is None and not device.problem


def test_a_folder_that_is_not_there_yet_is_looked_at_where_it_will_be(tmp_path: Path) -> None:
    assert look_at_storage(str(tmp_path / "a" / "b")).place == str(tmp_path)


def test_a_file_and_a_link_to_nothing_are_no_place_for_runs(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("job: tiny")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, said in (
        ("tiny.yaml", "is not a folder"),
        ("link", f"is a link to {tmp_path / 'gone'}, which is not there"),
    ):
        for place in (tmp_path / name, tmp_path / name / "below"):
            found = look_at_storage(str(place))
            assert (found.problem, found.number) == (f"{tmp_path / name} {said}", errno.ENOTDIR)
            assert found.free_bytes is None


def test_a_place_that_takes_nothing_is_told_with_what_room_it_has() -> None:
    found = look_at_storage("/proc/runs")
    assert found.problem.startswith("/proc cannot be written: ") and found.number and found.free_bytes is not None


def test_ports_that_others_hold_are_counted_and_none_free_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        found = look_at_network(None, Ports(port, port + 2))
        assert found.interface == "lo" and found.num_free is not None and found.num_free <= 2
        taken = look_at_network(None, Ports(port, port))
        assert taken.num_free == 0 and "are taken" in taken.ports_problem
    assert look_at_network(None, None).num_free is None


def test_an_interface_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")
    assert "no such interface" in look_at_network("127.0.0.1", None).problem


def test_an_accelerator_that_nobody_offers_is_a_finding_and_one_without_devices_is_asked_nothing() -> None:
    assert "not known" in look_at_devices("tpu9", DEADLINES).problem
    found = look_at_devices("npu", replace(DEADLINES, telemetry_start_s=0.1))
    assert found.count == 0 and not found.problem


def test_a_package_that_answers_wrongly_is_the_devices_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "unsure_vendor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unsure-vendor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dougong.accelerators]\nunsure = unsure_look:Unsure\n")
    (tmp_path / "unsure_look.py").write_text(
        "from dougong.accelerators.cpu import Cpu\n\n\nclass Unsure(Cpu):\n    name = 'unsure'\n\n"
        "    def describe(self):\n        return ['unsure']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "describe() has returned ['unsure'] (list), and must" in look_at_devices("unsure", DEADLINES).problem
