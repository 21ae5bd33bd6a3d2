"""The nodes of a Ray cluster, with an actor on each that examines its machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import show_devices
from dougong.deadlines import Deadlines
from dougong.doctor.ask.demand import known_accelerators
from dougong.doctor.ask.nodes import Replies, note, silence_words
from dougong.doctor.facts import Question
from dougong.doctor.node.examiner import NodeExaminer
from dougong.launcher.backends.ray_agents import last_words
from dougong.launcher.backends.ray_cluster import RayBackend
from dougong.planner.nodes import Node

Asked = TypeVar("Asked")
Told = TypeVar("Told")

_AT_ONCE = 4
"""Calls that a node answers at the same time: others reach it while it measures."""


class ExaminerActor:
    """The Ray actor on a node."""

    def __init__(self) -> None:
        named = [get_accelerator(name).visible_devices_variable for name in known_accelerators()]
        show_devices([variable for variable in named if variable is not None])
        self._examiner = NodeExaminer()

    def ready(self) -> bool:
        """That it is there."""
        return True

    def answer(self, name: str, text: str) -> str:
        """As `NodeExaminer.answer`."""
        return self._examiner.answer(name, text)


class RayNodes:
    """Those of the cluster that `backend` has joined."""

    def __init__(self, backend: RayBackend, deadlines: Deadlines) -> None:
        self._backend, self._deadlines = backend, deadlines
        self._actors: dict[str, Any] = {}

    def nodes(self, kinds: Iterable[str]) -> list[Node]:
        return self._backend.nodes(tuple(kinds))

    def begin(self, names: Iterable[str]) -> Mapping[str, str]:
        self._actors = {name: _actor_on(name) for name in names}
        asked = {name: actor.ready.remote() for name, actor in self._actors.items()}
        texts, silent = _gather(asked, self._deadlines.doctor_start_s)
        for name in self._actors.keys() - texts.keys():
            _kill(self._actors.pop(name))
        return silent

    def ask(
        self, question: Question[Asked, Told], of: Mapping[str, Asked], limit_s: float
    ) -> Replies[Told]:
        asked = {}
        for name, what in of.items():
            text = question.asked.dump_json(what).decode()
            asked[name] = self._actors[name].answer.remote(question.name, text)
        texts, silent = _gather(asked, limit_s)
        answers: Replies[Told] = Replies(silent=silent)
        for name, told in texts.items():
            note(answers, question, name, told)
        return answers

    def close(self) -> None:
        for actor in self._actors.values():
            _kill(actor)


def _actor_on(node: str) -> Any:
    """Asks for nothing but its node, so that it begins where all processors are taken."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor_class: Any = ray.remote(ExaminerActor)
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": _AT_ONCE}
    return actor_class.options(**options, scheduling_strategy=place).remote()


def _gather(asked: Mapping[str, Any], limit_s: float) -> tuple[dict[str, Any], dict[str, str]]:
    """What has come within the limit, and why nothing has from the others."""
    import ray

    names = {reference: name for name, reference in asked.items()}
    if not names:
        return {}, {}
    done, late = ray.wait(list(names), num_returns=len(names), timeout=limit_s)
    found: dict[str, Any] = {}
    silent = {names[reference]: silence_words(limit_s) for reference in late}
    for reference in done:
        try:
            found[names[reference]] = ray.get(reference)
        except Exception as error:  # whatever the node has raised is what was found
            silent[names[reference]] = last_words(error)
    return found, silent


def _kill(actor: Any) -> None:
    import ray

    with contextlib.suppress(Exception):  # its node may be gone
        ray.kill(actor, no_restart=True)
