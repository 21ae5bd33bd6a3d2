"""The process that asks a cluster: what it says, how it ends, and its deadline."""

from __future__ import annotations

import socket
from pathlib import Path

from dougong.doctor.apart import ClusterRequest, DoctorLine, examine_apart
from dougong.doctor.ask.demand import DoctorRequest
from dougong.job.load import load_job
from dougong.launcher.backends.ray_choice import joining

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_asked_travels_whole() -> None:
    job = load_job(ROOT / "examples" / "quickstart.yaml").job
    request, choice = DoctorRequest(job, False, "/runs"), joining("10.0.0.1:6379")
    there = ClusterRequest.model_validate_json(ClusterRequest.of(request, choice).model_dump_json())
    assert (there.request, there.choice) == (request, choice)
    assert DoctorLine.model_validate_json(DoctorLine(doing="x").model_dump_json()).report is None


def test_a_head_that_is_not_there_is_the_finding() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told: list[str] = []
    found = examine_apart(DoctorRequest(None, True, "runs"), joining(f"127.0.0.1:{port}"), told.append)
    (check,) = found.failed
    assert check.name == "cluster" and "nobody answers" in check.symptoms[0].words
    assert "ray start --head" in check.symptoms[0].remedy and told


def test_what_has_not_ended_by_its_deadline_is_ended_and_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = examine_apart(DoctorRequest(None, True, "runs"), joining(address), lambda doing: None, 0.1)
    assert "has not ended within 0.1 s" in found.failed[0].symptoms[0].words
