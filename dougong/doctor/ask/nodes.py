"""The nodes that are examined, as whoever examines them sees them: each is asked, and answers
within a limit or is silent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from dougong.doctor.facts import Question
from dougong.doctor.node.examiner import NodeExaminer
from dougong.errors import DougongError
from dougong.planner.nodes import Node

Asked = TypeVar("Asked")
Told = TypeVar("Told")


@dataclass
class Replies(Generic[Told]):
    """`given`: by node; `silent`: why there is none of the others."""

    given: dict[str, Told] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


class ExaminedNodes(Protocol):
    """Nodes with a process of the doctor's on each. Names are ids of `planner.nodes.Node`."""

    def nodes(self, kinds: Iterable[str]) -> list[Node]:
        """All there are, those that do not answer included."""

    def begin(self, names: Iterable[str]) -> Mapping[str, str]:
        """Have a process on each of these; why there is none on the others."""

    def ask(
        self, question: Question[Asked, Told], of: Mapping[str, Asked], limit_s: float
    ) -> Replies[Told]:
        """Ask these nodes at the same time. Returns after `limit_s` at the latest."""

    def close(self) -> None:
        """End what was begun."""


class NodesHere:
    """Nodes within this process: this machine alone, or several in a test."""

    def __init__(self, describe: Sequence[Callable[[Iterable[str]], Node]]) -> None:
        """Each describes a node, with its devices of these accelerators."""
        self._describe = describe
        self._examiners: dict[str, NodeExaminer] = {}

    def nodes(self, kinds: Iterable[str]) -> list[Node]:
        wanted = tuple(kinds)
        return [describe(wanted) for describe in self._describe]

    def begin(self, names: Iterable[str]) -> Mapping[str, str]:
        self._examiners = {name: NodeExaminer() for name in names}
        return {}

    def ask(
        self, question: Question[Asked, Told], of: Mapping[str, Asked], limit_s: float
    ) -> Replies[Told]:
        found: dict[str, futures.Future[str]] = {}
        for name, asked in of.items():
            text = question.asked.dump_json(asked).decode()
            found[name] = _begin(self._examiners[name], question.name, text)
        futures.wait(found.values(), limit_s)
        answers: Replies[Told] = Replies()
        for name, future in found.items():
            take(answers, question, name, future, limit_s)
        return answers

    def close(self) -> None:
        for examiner in self._examiners.values():
            examiner.close()


def _begin(examiner: NodeExaminer, name: str, text: str) -> futures.Future[str]:
    """Ask in a thread that is left to itself where it hangs."""
    found: futures.Future[str] = futures.Future()

    def run() -> None:
        try:
            found.set_result(examiner.answer(name, text))
        except Exception as error:  # whatever it is, the asker is told
            found.set_exception(error)

    threading.Thread(target=run, name=f"dougong-{name}", daemon=True).start()
    return found


def take(
    answers: Replies[Any],
    question: Question[Any, Any],
    name: str,
    future: futures.Future[str],
    limit_s: float,
) -> None:
    """Put into `answers` what has come from a node, or why nothing has."""
    try:
        note(answers, question, name, future.result(0))
    except futures.TimeoutError:
        answers.silent[name] = silence_words(limit_s)
    except DougongError as error:
        answers.silent[name] = str(error)
    except Exception as error:  # a node's own trouble is what was found
        answers.silent[name] = f"{type(error).__name__}: {error}"


def note(answers: Replies[Any], question: Question[Any, Any], name: str, text: str) -> None:
    """Read an answer."""
    try:
        answers.given[name] = question.told.validate_json(text)
    except ValidationError:
        answers.silent[name] = "its answer is not understood: another dougong is installed there"


def silence_words(limit_s: float) -> str:
    """That somebody has not answered."""
    return f"it has not answered within {limit_s:g} s"
