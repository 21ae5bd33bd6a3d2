"""The whole of the questions, to nodes within this process; one of them does otherwise."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.control.handshake import FolderTrouble
from dougong.deadlines import DEADLINES
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.ask.nodes import NodesHere
from dougong.doctor.ask.observations import Observations, Viewpoint
from dougong.doctor.ask.observe import here, observe
from dougong.doctor.examine import judge
from dougong.doctor.facts import LookQuestion, NodeFacts
from dougong.doctor.node.examiner import NodeExaminer
from dougong.planner.nodes import Node

LOOK = NodeExaminer.look


def asked(run_dir: Path, number: int = 3, quick: bool = True) -> Observations:
    request = DoctorRequest(None, quick, str(run_dir))
    names = [f"n{i}" for i in range(number)]
    nodes = NodesHere([lambda kinds, name=name: Node(name, name, f"10.0.0.{name[1]}") for name in names])  # type: ignore[misc]
    place = Viewpoint("127.0.0.1", "secret", here(request, socket.gethostname()))
    try:
        return observe(nodes, request, place, False, lambda doing: None)
    finally:
        nodes.close()


def failures(seen: Observations) -> dict[str, tuple[str, ...]]:
    return {check.name: check.named for check in judge(seen) if check.grade == "failed"}


def test_like_nodes_are_sound_and_nothing_is_left(tmp_path: Path) -> None:
    seen = asked(tmp_path)
    assert failures(seen) == {}
    assert len(seen.paths) == len(seen.clocks) == len(seen.facts) == 3 and not seen.speeds
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(240)
def test_the_full_half_measures_every_node_and_every_link(tmp_path: Path) -> None:
    seen = asked(tmp_path, 2, quick=False)
    assert sorted(seen.speeds) == sorted(seen.stores) == ["n0", "n1"]
    assert all(answer.devices[0].matmul_flops > 0 for answer in seen.speeds.values())
    assert not seen.links["n0", "n1"].problem and not seen.unmeasured
    assert list(tmp_path.iterdir()) == []


def changed(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """From now on that node says otherwise."""

    def look(self: NodeExaminer, question: LookQuestion) -> NodeFacts:
        found = LOOK(self, question)
        return replace(found, **changes) if question.name == name else found  # type: ignore[arg-type]

    monkeypatch.setattr(NodeExaminer, "look", look)


def test_one_that_says_otherwise_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = asked(tmp_path).facts["n2"].versions
    changed(monkeypatch, "n2", versions=versions | {"transformers": "4.57.1"})
    assert failures(asked(tmp_path)) == {"versions": ("n2 (10.0.0.2)",)}


def test_one_whose_folder_is_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def look(self: NodeExaminer, question: LookQuestion) -> NodeFacts:
        if question.name != "n1":
            return LOOK(self, question)
        found = LOOK(self, replace(question, proof=None))
        trouble = FolderTrouble(question.folder, "other")
        return replace(found, folder=replace(found.folder, trouble=trouble))

    monkeypatch.setattr(NodeExaminer, "look", look)
    assert failures(asked(tmp_path)) == {"shared folder": ("n1 (10.0.0.1)",)}
    assert list(tmp_path.iterdir()) == []


def test_one_that_does_not_answer_is_examined_no_further_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def look(self: NodeExaminer, question: LookQuestion) -> NodeFacts:
        if question.name == "n2":
            raise RuntimeError("no such luck")
        return LOOK(self, question)

    monkeypatch.setattr(NodeExaminer, "look", look)
    seen = asked(tmp_path)
    assert failures(seen) == {"nodes": ("n2 (10.0.0.2)",)}
    assert seen.silent == {"n2": "RuntimeError: no such luck"}
    assert len(seen.paths) == 2


def test_an_earlier_life_of_a_node_is_no_node(tmp_path: Path) -> None:
    request = DoctorRequest(None, True, str(tmp_path))
    lives = (Node("old", "a", "10.0.0.1", gone="has left the cluster"), Node("new", "a", "10.0.0.1"))
    lost = Node("lost", "b", "10.0.0.2", gone="has left the cluster")
    nodes = NodesHere([lambda kinds, node=node: node for node in (*lives, lost)])  # type: ignore[misc]
    place = Viewpoint("127.0.0.1", "secret", here(request, "a"))
    seen = observe(nodes, request, place, False, lambda doing: None)
    nodes.close()
    assert list(seen.nodes) == ["new", "lost"]
    assert failures(seen) == {"nodes": ("b (10.0.0.2)",)}


def test_a_place_that_cannot_be_written_here_is_told(tmp_path: Path) -> None:
    seen = asked(Path("/proc/nothing"), 2)
    assert "shared folder" in failures(seen)
    assert seen.folder_problem and DEADLINES.shared_file_s > 0
