"""What Ray is asked for, and what is told of an actor's end. Agents over a real Ray: test_ray_cluster.py and
tests/lab/test_places.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_agents import devices_asked, last_words, plain_text
from dougong.planner.placement import AgentSpec

CREATION = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::AgentActor.__init__()\x1b[39m "
    '(pid=7, ip=10.0.0.2)\n  File "x.py", line 1, in __init__\n    import dougong\n'
    "ModuleNotFoundError: No module named 'dougong'\n"
)


class TaskError(RuntimeError):
    """As Ray hands on what an actor's method raised."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


def test_ray_is_asked_for_devices_alone() -> None:
    assert devices_asked(AgentSpec("east", "east", "both", "cpu", 1, 0, 8)) == {}
    west = AgentSpec("west", "west", "both", "npu", 1, 0, 2)
    assert devices_asked(west) == {"NPU": 2.0}
    assert devices_asked(replace(west, avoided=("NPU-1",))) == {"NPU": 3.0}, "one of them may be the one to leave out"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError(CREATION),
            "ModuleNotFoundError: No module named 'dougong'; install dougong on that machine for the Python with "
            "which its `ray start` was typed",
        ),
        (RuntimeError("The actor died\n\tpid: 7\nThe actor is dead because its node has died.\n"),
         "The actor is dead because its node has died."),
        (TaskError("\x1b[36mray::serve()\x1b[39m\nLaunchError: a\nb", LaunchError("a\nb")), "a; b"),
        (RuntimeError(""), "RuntimeError"),
    ],
)  # fmt: skip
def test_an_actors_last_line_says_what_it_died_of(error: Exception, words: str) -> None:
    assert last_words(error) == words


def test_colours_are_left_out() -> None:
    assert plain_text(RuntimeError(CREATION)).startswith("The actor died because of an error raised in its creation")
    assert "\x1b" not in plain_text(RuntimeError(CREATION))
