"""What is noticed of Ray. A real one whose parts die: test_ray_cluster.py and tests/lab/test_head.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from dougong.launcher.backends.base import RayNews
from dougong.launcher.backends.process.ray_watch import HeadLooks, lost_part

GONE = RayNews(
    "head", True, "Ray's head at 10.0.0.1:6379 does not answer (`ray start --head --port=6379` there begins one, and "
    "`ray start` on each node joins it)",
)  # fmt: skip
BACK = RayNews("head", False, "Ray's head at 10.0.0.1:6379 answers again")


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ("yyy", []),
        ("ynyny", []),
        ("ynnnnn", [GONE]),
        ("nnyy", [GONE, BACK]),
        ("ynnynyynny", [GONE, BACK, GONE, BACK]),
    ],
)
def test_a_head_that_misses_one_look_is_busy_and_one_that_misses_two_is_gone(looks: str, told: list[RayNews]) -> None:
    head = HeadLooks("10.0.0.1:6379")
    assert [news for look in looks if (news := head.take(look == "y")) is not None] == told


def test_of_a_ray_of_its_own_each_part_is_missed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    lives = os.getpid()
    assert lost_part({"gcs_server": lives, "raylet": lives, "log_monitor": ended.pid}) is None
    assert lost_part({}) is None
    head = lost_part({"gcs_server": ended.pid, "raylet": lives})
    assert head is not None and head.part == "head"
    raylet = lost_part({"gcs_server": lives, "raylet": ended.pid})
    assert raylet is not None and raylet.part == "raylet"
