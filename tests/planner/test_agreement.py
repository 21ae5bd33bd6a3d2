"""Which nodes do not agree, and how that is said."""

from __future__ import annotations

import pytest
from dougong.control.handshake import AgentFacts
from dougong.errors import LaunchError
from dougong.planner.agreement import check_agents


def hello(node: str, sees: bool = True, **versions: str) -> AgentFacts:
    software = {"python": "3.11.7", "torch": "2.13.0", **versions}
    return AgentFacts("east", "east", node, 1, "cpu", None, software, {}, sees)


def test_a_version_skew_is_refused_with_a_table() -> None:
    check_agents({"east": hello("alpha"), "west": hello("beta")}, "/run")
    with pytest.raises(LaunchError) as caught:
        check_agents({"east": hello("alpha"), "west": hello("beta", torch="2.12.1")}, "/run")
    lines = str(caught.value).splitlines()
    assert "differ in torch;" in lines[0]
    assert lines[1].split() == ["node", "python", "torch*"]
    assert lines[2].split() == ["alpha", "(east)", "3.11.7", "2.13.0"]
    assert lines[3].split() == ["beta", "(west)", "3.11.7", "2.12.1"]


def test_the_launching_machine_is_one_of_those_that_must_agree() -> None:
    here = {"python": "3.11.7", "torch": "2.13.0+cpu"}
    check_agents({"east": hello("alpha"), "west": hello("beta")}, "/run", here)  # another build of one release
    with pytest.raises(LaunchError) as caught:
        check_agents({"east": hello("alpha", torch="2.12.1")}, "/run", here)
    lines = str(caught.value).splitlines()
    assert "differ in torch;" in lines[0]
    assert lines[2].split() == ["this", "machine", "(dougong", "run)", "3.11.7", "2.13.0+cpu"]
    assert lines[3].split() == ["alpha", "(east)", "3.11.7", "2.12.1"]
    with pytest.raises(LaunchError, match="differ in transformers;"):  # a package that one side lacks
        check_agents({"east": hello("alpha")}, "/run", {**here, "transformers": "5.23.0"})


def test_a_node_that_does_not_see_the_run_directory_is_refused() -> None:
    with pytest.raises(LaunchError, match="/run is not to be seen on beta"):
        check_agents({"east": hello("alpha"), "west": hello("beta", sees=False)}, "/run")
