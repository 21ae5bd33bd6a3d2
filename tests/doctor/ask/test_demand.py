"""What a job asks of nodes, and what any of them is asked without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.addresses import Ports
from dougong.deadlines import DEADLINES
from dougong.doctor.ask.demand import DoctorRequest, demand_of
from dougong.doctor.facts import Post
from dougong.job.load import load_job
from dougong.planner.nodes import Node

ROOT = Path(__file__).resolve().parents[3]
NODES = [Node("n0", "node0", "10.0.0.1", cpus=8.0), Node("n1", "node1", "10.0.0.2", {"cuda": 4}, cpus=8.0)]


def request(*overrides: str) -> DoctorRequest:
    job = load_job(ROOT / "examples" / "quickstart.yaml", list(overrides)).job
    return DoctorRequest(job, True, "runs")


def test_without_a_job_every_device_is_looked_at_and_the_processor() -> None:
    asked = DoctorRequest(None, True, "runs")
    assert "cpu" in asked.kinds and "cpu" not in asked.counted_kinds and "cuda" in asked.counted_kinds
    found = demand_of(asked, NODES, shared=False)
    assert found.posts["n0"] == (Post("cpu", "cpu", 1),)
    assert found.posts["n1"] == (Post("cuda", "cuda", 4, num_devices=4), Post("cpu", "cpu", 1))
    assert asked.deadlines is DEADLINES and asked.ports is None and asked.precision == "float32"


def test_a_job_says_which_node_does_what() -> None:
    asked = request("islands.east.workers=3")
    found = demand_of(asked, NODES, shared=False)
    assert found.num_workers == 3 and not found.problem
    assert sorted(map(len, found.posts.values())) == [0, 1], "on one node, where all fit"
    assert found.islands_of("n0") + found.islands_of("n1") == ("east",)
    assert asked.kinds == ("cpu",) and asked.model_types == ("qwen3_moe",)


def test_a_job_without_room_is_looked_at_as_if_there_were_none() -> None:
    found = demand_of(request("islands.east.accelerator=npu"), NODES, shared=False)
    assert "island east" in found.problem and found.posts["n0"]


def test_ports_and_limits_are_the_job_s_or_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request("fault.deadlines.path_s=7", "ports=20000-20100")
    assert asked.deadlines.path_s == 7 and asked.ports == Ports(20000, 20100)
    monkeypatch.setenv("DOUGONG_PORTS", "30000-30100")
    assert request().ports == Ports(30000, 30100)


def test_the_job_s_files_are_named_from_the_root(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("x")
    assert request(f"data.text={text}").files == (str(text),)
