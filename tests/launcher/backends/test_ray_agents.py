"""What Ray is asked for. Agents over a real Ray: test_ray_cluster.py."""

from __future__ import annotations

from dougong.launcher.backends.ray_agents import bundle_of
from dougong.planner.placement import AgentSpec


def test_bundles_ask_for_devices_and_hardly_any_processor() -> None:
    cpu = AgentSpec("east", "east", "both", "cpu", 1, 0, 8)
    npu = AgentSpec("west", "west", "both", "npu", 1, 0, 2)
    assert bundle_of(cpu) == {"CPU": 0.01}
    assert bundle_of(npu) == {"CPU": 0.01, "NPU": 2.0}
