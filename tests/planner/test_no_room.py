"""Why devices cannot be had, in words."""

import pytest
from dougong.job.schema import Island
from dougong.planner.no_room import too_few_devices
from dougong.planner.nodes import Node

EMPTY = Node("aaaaaaaaaaaa", "alpha", "10.0.0.1", {"npu": 0})
HELD = Node("bbbbbbbbbbbb", "beta", "10.0.0.2", {"npu": 2}, free={"npu": 1}, holders=("job other",))


@pytest.mark.parametrize(
    ("devices", "nodes", "words"),
    [
        ("own", [(HELD, 1)], "asks for 2 npu workers, one device each, but only 1 device is free"),
        ("own", [(HELD, 1)], "free what others hold (`ray status`), or lower islands.east.workers"),
        ("shared", [(HELD, 0)], "asks for 2 npu workers, on one device together, but none is free"),
        ("own", [(EMPTY, 0)], "add nodes that have some, or use another islands.east.accelerator (on this machine"),
    ],
)
def test_numbers_and_the_next_step(devices: str, nodes: list[tuple[Node, int]], words: str) -> None:
    east = Island.model_validate({"name": "east", "accelerator": "npu", "workers": 2, "devices": devices})
    assert words in str(too_few_devices(east, 2, nodes))


def test_who_shares_is_not_told_to_have_fewer_workers() -> None:
    east = Island(name="east", accelerator="npu", workers=2, devices="shared")
    said = str(too_few_devices(east, 1, [(HELD, 0)]))
    assert "lower" not in said
