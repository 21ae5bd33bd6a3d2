"""Judgements of what each node is by itself, from made facts."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from dougong.accelerators.telemetry.reading import DeviceFault, DeviceReading
from dougong.control.handshake import FolderTrouble, MachineLimits
from dougong.doctor.ask.demand import Demand
from dougong.doctor.ask.observations import ClockFacts, Observations
from dougong.doctor.facts import FolderFacts, KindFacts, Post
from dougong.doctor.judge import machine
from dougong.doctor.record import DoctorCheck
from tests.doctor.made import GIB, sound, title, with_facts

CHECKS = (
    machine.check_nodes, machine.check_token, machine.check_clock, machine.check_shared, machine.check_disk,
    machine.check_shared_memory, machine.check_limits, machine.check_devices, machine.check_environment,
)  # fmt: skip


def words(found: DoctorCheck) -> str:
    return "\n".join(symptom.words for symptom in found.symptoms)


@pytest.mark.parametrize("check", CHECKS)
def test_like_nodes_are_sound(check) -> None:  # type: ignore[no-untyped-def]
    assert check(sound()).grade == "sound"
    assert check(sound()).named == ()


def test_a_node_that_does_not_answer_and_a_job_without_room_are_findings() -> None:
    seen = sound(silent={"n2": "it has not answered within 60 s"})
    del seen.facts["n2"]
    seen.unmeasured.append(("n1", "speed", "it has not answered within 300 s"))
    seen.demand = replace(seen.demand, problem="island east needs 4 cuda devices")
    found = machine.check_nodes(seen)
    assert found.named == (title(2), title(1)) and len(found.symptoms) == 3
    assert "island east needs 4" in words(found)


def test_a_cluster_without_a_token_is_remarked_on() -> None:
    found = machine.check_token(with_facts(sound(), "n1", wants_token=False))
    assert found.grade == "sound" and title(1) in found.remarks[0]


def with_clock(ahead_s: float, num_nodes: int = 3) -> Observations:
    seen = sound(num_nodes)
    seen.clocks["n1"] = ClockFacts(ahead_s, 0.01)
    return seen


def test_a_clock_is_named_against_the_median_and_of_two_nobody_is() -> None:
    found = machine.check_clock(with_clock(-300.0))
    assert found.named == (title(1),) and words(found) == "the clock of node1 (10.0.0.2) is 5:00 behind the others'"
    assert machine.check_clock(with_clock(4.0)).grade == "sound"
    two = machine.check_clock(with_clock(300.0, 2))
    assert two.grade == "failed" and two.named == () and "which is right cannot be said" in words(two)
    assert machine.check_clock(sound(1)).grade == "not run"
    here = sound(clocks=dict.fromkeys(("n1", "n2"), ClockFacts(300.0, 0.01)) | {"n0": ClockFacts(0.0, 0.01)})
    assert machine.check_clock(here).named == (title(0),), "this machine's own may be the odd one"


def with_trouble(*names: str, fault: str = "other", num_nodes: int = 3) -> Observations:
    seen = sound(num_nodes)
    for name in names:
        trouble = FolderTrouble("/shared", fault, mount="ext4 /dev/sda", mount_here="nfs4 nas:/x")  # type: ignore[arg-type]
        seen = with_facts(seen, name, folder=replace(seen.facts[name].folder, trouble=trouble))
    return seen


def test_a_folder_of_its_own_names_its_node_with_both_mounts() -> None:
    found = machine.check_shared(with_trouble("n2"))
    assert found.named == (title(2),)
    assert "node2 (10.0.0.3) has another directory at /shared (ext4 /dev/sda there, nfs4 nas:/x here)" in words(found)
    assert "mount there what this machine has" in found.symptoms[0].remedy
    assert "not to be seen on node1" in words(machine.check_shared(with_trouble("n1", fault="absent")))


def test_where_only_this_machine_sees_it_nobody_is_accused() -> None:
    for found in (with_trouble("n1", "n2"), with_trouble("n1", num_nodes=2)):
        judged = machine.check_shared(found)
        assert judged.grade == "failed" and judged.named == ()
    assert machine.check_shared(sound(1)).grade == "not run"
    assert machine.check_shared(sound(folder_problem="/shared: Read-only")).grade == "failed"


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        (FolderFacts("/shared", GIB // 2, 200 * GIB, 10**6), "has 512.0 MiB free of 200.0 GiB"),
        (FolderFacts("/shared", 100 * GIB, 200 * GIB, 3), "takes 3 more files"),
        (FolderFacts("/shared", problem="the file system has not answered within 2 s"), "has not answered"),
    ],
)
def test_a_full_or_dead_disk_names_its_node(folder: FolderFacts, text: str) -> None:
    found = machine.check_disk(with_facts(sound(), "n1", folder=folder))
    assert found.named == (title(1),) and text in words(found)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "mount it there for writing"),
        (errno.EACCES, "let that user read and write there"),
        (errno.EDQUOT, "make room,"),
        (errno.EIO, "mount it there anew, or mend it"),
        (errno.ENOTDIR, "move it away"),
    ],
)
def test_a_place_that_takes_nothing_has_the_remedy_of_its_cause(number: int, remedy: str) -> None:
    room = {} if number == errno.ENOTDIR else {"free_bytes": 100 * GIB, "total_bytes": 200 * GIB}
    folder = FolderFacts("/shared", **room, problem="/shared cannot be written", number=number)
    (symptom,) = machine.check_disk(with_facts(sound(), "n1", folder=folder)).symptoms
    assert symptom.words == f"{title(1)}: /shared cannot be written" and symptom.nodes == (title(1),)
    assert symptom.remedy.startswith(remedy) and symptom.remedy.endswith(", or choose another place by --run-dir")


def test_no_room_is_told_once() -> None:
    folder = FolderFacts("/shared", 0, 200 * GIB, problem="/shared cannot be written", number=errno.ENOSPC)
    (symptom,) = machine.check_disk(with_facts(sound(), "n1", folder=folder)).symptoms
    assert "has 0 B free of 200.0 GiB" in symptom.words and symptom.remedy.startswith("make room,")


def test_the_job_s_checkpoints_need_their_room() -> None:
    seen = sound()
    seen.request = replace(seen.request, room_bytes=150 * GIB)
    found = machine.check_disk(seen)
    assert found.named == tuple(map(title, range(3)))
    assert (
        "has 100.0 GiB free of 200.0 GiB, and the checkpoints that it keeps, and the next one, take 150.0 GiB"
        in words(found)
    )


def test_files_of_the_job_that_are_not_there_name_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sound().request), "files", ("/data/a.bin", "/data/b.bin"))
    assert machine.check_files(sound()).grade == "sound"
    found = machine.check_files(with_facts(sound(), "n2", absent=("/data/b.bin",)))
    assert found.named == (title(2),) and "does not have /data/b.bin" in words(found)


def test_without_a_job_no_files_are_looked_for() -> None:
    assert machine.check_files(sound()).grade == "not run"


def of_devices(seen: Observations) -> Observations:
    seen.demand = Demand({name: (Post("east", "cuda", 8),) for name in seen.nodes})
    for name in seen.nodes:
        with_facts(seen, name, devices=(KindFacts("cuda", 8, "H100"),))
    return seen


def test_small_limits_name_their_node_with_the_command_that_raises_them() -> None:
    seen = of_devices(sound())
    limits = MachineLimits(8, GIB, GIB, 128, 50, 64 << 20, 64 << 10)
    seen = with_facts(seen, "n1", limits=limits)
    found = machine.check_limits(seen)
    assert found.named == (title(1),) and len(found.symptoms) == 2
    assert found.symptoms[0].remedy.startswith("`ulimit -n") and found.symptoms[1].remedy.startswith("`ulimit -u")
    assert "ulimit -l unlimited" in found.remarks[0]
    shared = machine.check_shared_memory(seen)
    assert shared.named == (title(1),) and "--shm-size=1g" in shared.symptoms[0].remedy
    full = machine.check_shared_memory(with_facts(sound(), "n2", shared_memory_free=1000))
    assert full.named == (title(2),)


def with_device(**changes: object) -> Observations:
    seen = of_devices(sound())
    return with_facts(seen, "n2", devices=(replace(seen.facts["n2"].devices[0], **changes),))


GONE = DeviceFault("Xid 79", "the GPU has fallen off the bus", "give_up")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"problem": "nothing from its driver for 60 s"}, "nobody can say how its devices are"),
        ({"refused": ("NVIDIA_TF32_OVERRIDE=1: it rounds",)}, "breaks what `determinism` promises"),
        ({"readings": {"cuda:3": DeviceReading(3, "GPU-3", (GONE,))}}, "cuda:3 of node2 (10.0.0.3) cannot be used"),
        ({"readings": {"cuda:1": DeviceReading(1, "GPU-1", throttling=("thermal",), temperature_c=91)}}, "91 C"),
        ({"count": 7}, "has 7 cuda (H100), the others 8"),
        ({"missing": "torch is not built for it"}, "torch is not built for it"),
    ],
)
def test_a_bad_device_names_its_node(changes: dict[str, object], text: str) -> None:
    found = machine.check_devices(with_device(**changes))
    assert found.named == (title(2),) and text in words(found)


def test_devices_that_are_counted_on_and_not_there_name_their_node() -> None:
    seen = with_device(count=0)
    seen.demand = Demand({name: (Post("east", "cuda", 16, num_devices=8),) for name in seen.nodes})
    found = machine.check_devices(seen)
    assert found.named == (title(2),) and words(found) == "node2 (10.0.0.3) is to use 8 cuda devices, and shows 0"


def test_what_a_device_bears_is_a_remark() -> None:
    readings = {"cuda:0": DeviceReading(0, "GPU-0", throttling=("power",), awaits_reset=True)}
    found = machine.check_devices(with_device(readings=readings))
    assert found.grade == "sound" and "replaced at its next reset" in found.remarks[0]


def test_a_variable_that_must_be_alike_names_who_has_another() -> None:
    seen = of_devices(sound())
    for name, value in (("n0", "Ring"), ("n1", "Ring"), ("n2", "Tree")):
        with_facts(seen, name, devices=(KindFacts("cuda", 8, "H100", agreed={"NCCL_ALGO": value}),))
    found = machine.check_environment(seen)
    assert found.named == (title(2),)
    assert words(found) == "east: NCCL_ALGO is Tree on node2 (10.0.0.3), Ring on the others"
