"""`dougong doctor` on three hosts: a bad node is named among good ones, and nobody else."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator, Mapping

import pytest
from dougong.doctor.record import DoctorReport
from dougong.testing import Done, Host, Lab, LabClock, ProcessorGroup
from tests.lab.conftest import Cluster
from tests.launcher.toyrun import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BAD = "node2 (10.0.0.3)"
LIMIT_S = 500


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """node0 (head), node1 and node2."""
    with Lab(num_hosts=3) as lab:
        yield Cluster(lab, lab.start_ray(num_cpus=2))


def examine(cluster: Cluster, *words: str, address: str = "") -> tuple[Done, DoctorReport]:
    """From node0, with runs in the shared folder."""
    run_dir = cluster.lab.shared / "runs"
    run_dir.mkdir(exist_ok=True)
    kept = cluster.lab.shared / f"doctor-{secrets.token_hex(4)}"
    command = ["dougong", "doctor", *words, "--address", address or cluster.address]
    done = cluster.hosts[0].run([*command, "--run-dir", str(run_dir), "--out", str(kept)], LIMIT_S)
    assert (kept / "doctor.json").is_file(), done.output
    return done, DoctorReport.model_validate_json((kept / "doctor.json").read_text())


def failures(found: DoctorReport) -> dict[str, tuple[str, ...]]:
    """Check -> the nodes that it names."""
    return {check.name: check.named for check in found.failed}


def words_of(found: DoctorReport, check: str) -> str:
    (one,) = (one for one in found.checks if one.name == check)
    return "\n".join(symptom.words for symptom in one.symptoms)


def examining(host: Host) -> list[str]:
    """What the doctor has begun there and is still there."""
    return [words for words in host.processes().values() if "Examiner" in words or "dougong.doctor" in words]


def restart(cluster: Cluster, env: Mapping[str, str | None] | None = None) -> None:
    """node2's Ray, with this in its environment."""
    node = cluster.hosts[2]
    node.stop_ray()
    node.start_ray(cluster.ray, num_cpus=2, env=env)


def test_sound_nodes_are_sound_and_one_with_a_folder_of_its_own_is_named(cluster: Cluster) -> None:
    job = cluster.job("sound")
    done, found = examine(cluster, str(job), "--quick", address="auto")
    assert done.status == 0 and found.is_sound and found.job == "lab", done.output
    assert found.nodes == ("node0 (10.0.0.1)", "node1 (10.0.0.2)", BAD)
    runs = cluster.lab.shared / "runs"
    cluster.hosts[2].own(runs)
    try:
        done, found = examine(cluster, "--quick")
    finally:
        cluster.hosts[2].give_back(runs)
    assert done.status == 1 and failures(found) == {"shared folder": (BAD,)}, done.output
    assert f"{BAD} has another directory at {runs}" in words_of(found, "shared folder")
    assert not list(runs.iterdir()), "the doctor leaves no file"
    for host in cluster.hosts:
        wait_for(lambda host=host: not examining(host), f"{host.name}: the doctor leaves no process", 30)  # type: ignore[misc]


@pytest.mark.slow
def test_a_slow_link_is_named(cluster: Cluster) -> None:
    cluster.hosts[2].limit(3)
    try:
        done, found = examine(cluster)
    finally:
        cluster.lab.heal()
    assert failures(found) == {"links": (BAD,)}, done.output
    assert "MB/s at best to any node" in words_of(found, "links")


@pytest.mark.slow
def test_a_slow_processor_is_named_and_nothing_else(cluster: Cluster) -> None:
    with ProcessorGroup(share=0.1) as group:
        group.adopt(cluster.hosts[2].processes())
        done, found = examine(cluster)
    assert found.named == (BAD,), done.output
    assert "matmul" in failures(found), done.output
    assert "of a processor), the others" in words_of(found, "matmul")


@pytest.mark.slow
def test_sound_nodes_are_sound_in_full(cluster: Cluster) -> None:
    done, found = examine(cluster)
    assert done.status == 0, done.output
    graded = {check.name: check.grade for check in found.checks}
    assert {name for name, grade in graded.items() if grade == "not run"} == {"files"}


@pytest.mark.slow
def test_another_clock_is_named(cluster: Cluster) -> None:
    clock = LabClock(cluster.lab.folder)
    restart(cluster, clock.env)
    clock.jump(300)
    try:
        done, found = examine(cluster, "--quick")
    finally:
        clock.jump(0)
        restart(cluster)
    assert failures(found) == {"clock": (BAD,)}, done.output
    assert f"the clock of {BAD} is 5:00 ahead of" in words_of(found, "clock")


@pytest.mark.slow
def test_an_old_transformers_is_named(cluster: Cluster) -> None:
    old = cluster.lab.shared / "old"
    metadata = old / "transformers-4.57.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.1\n")
    restart(cluster, {"PYTHONPATH": f"{old}:{cluster.lab.env['PYTHONPATH']}"})
    try:
        done, found = examine(cluster, "--quick")
    finally:
        restart(cluster)
    assert failures(found) == {"versions": (BAD,)}, done.output
    assert words_of(found, "versions").startswith(f"{BAD} has transformers 4.57.1, the others ")


@pytest.mark.slow
def test_a_run_is_refused_with_what_was_found_and_a_node_that_is_gone_is_no_hang(cluster: Cluster) -> None:
    runs = cluster.lab.shared / "runs"
    cluster.hosts[2].own(runs)
    try:
        refused = cluster.run(cluster.hosts[0], "refused", "--doctor")
    finally:
        cluster.hosts[2].give_back(runs)
    assert refused.status == 1 and "nothing was started" in refused.output, refused.output
    assert f"shared folder: {BAD} has another directory" in refused.output
    assert not cluster.run_dir("refused").exists()
    cluster.hosts[2].kill_ray()
    try:
        done, found = examine(cluster, "--quick")
    finally:
        cluster.hosts[2].start_ray(cluster.ray, num_cpus=2)
    assert done.status == 1 and failures(found) == {"nodes": (BAD,)}, done.output
    assert done.seconds < LIMIT_S / 2


@pytest.mark.slow
def test_a_node_that_stands_still_is_named_in_bounded_time(cluster: Cluster) -> None:
    stopped = list(cluster.hosts[2].processes())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        done, found = examine(cluster, "--quick")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert done.status == 1 and found.named == (BAD,), done.output
    assert "nodes" in failures(found) and done.seconds < 150, done.output
