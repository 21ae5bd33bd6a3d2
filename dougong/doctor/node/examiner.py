"""What is done on one node: it answers questions, each as it comes. Imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import TypeAdapter

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.control.network.path_probe import PathListener, try_paths
from dougong.doctor import facts
from dougong.doctor.facts import (
    ClockAnswer,
    ClockQuestion,
    DeviceRequest,
    DeviceSpeed,
    Doors,
    DoorsQuestion,
    LinkAnswer,
    LinkQuestion,
    LookQuestion,
    NodeFacts,
    PathsAnswer,
    PathsQuestion,
    Post,
    Question,
    SpeedAnswer,
    SpeedQuestion,
    StoreAnswer,
    StoreQuestion,
)
from dougong.doctor.node.bulk import BulkListener, measure_link
from dougong.doctor.node.disk import measure_storage
from dougong.doctor.node.look import look
from dougong.errors import DeviceError
from dougong.launcher.agent.facts import count_devices
from dougong.launcher.agent.paths import describe_end

_MODULE = "dougong.doctor.node.speeds"
_SPEED: TypeAdapter[DeviceSpeed] = TypeAdapter(DeviceSpeed)
_REQUEST = TypeAdapter(DeviceRequest)
_MOST_AT_ONCE = 64


class NodeExaminer:
    """One node. `answer` may be called by several threads; `close` ends what listens."""

    def __init__(self) -> None:
        self._doors: list[PathListener | BulkListener] = []

    def answer(self, name: str, text: str) -> str:
        """The answer to one of `facts`' questions, both as JSON. pydantic's ValidationError for a
        text that is none."""
        question, ask = self._questions[name]
        return str(question.told.dump_json(ask(question.asked.validate_json(text))).decode())

    @property
    def _questions(self) -> dict[str, tuple[Question[Any, Any], Any]]:
        known: tuple[tuple[Question[Any, Any], Any], ...] = (
            (facts.LOOK, self.look),
            (facts.CLOCK, self.clock),
            (facts.OPEN, self.open),
            (facts.PATHS, self.paths),
            (facts.LINK, self.link),
            (facts.SPEED, self.speed),
            (facts.STORE, self.store),
        )
        return {question.name: (question, ask) for question, ask in known}

    def look(self, question: LookQuestion) -> NodeFacts:
        return look(question)

    def clock(self, question: ClockQuestion) -> ClockAnswer:
        return ClockAnswer(time.time())

    def open(self, question: DoorsQuestion) -> Doors:
        """NoPortError where this machine cannot be listened on."""
        host, token, ports = question.host, question.token, question.ports
        path = PathListener(host, token, ports, question.deadlines)
        self._doors.append(path)
        bulk = BulkListener(host, token, ports, question.deadlines)
        self._doors.append(bulk)
        return Doors(describe_end(question.name, path.address, ports), bulk.port)

    def paths(self, question: PathsQuestion) -> PathsAnswer:
        return PathsAnswer(try_paths(question.asked, question.token, question.deadlines))

    def link(self, question: LinkQuestion) -> LinkAnswer:
        return measure_link(question)

    def store(self, question: StoreQuestion) -> StoreAnswer:
        return measure_storage(question.folder)

    def speed(self, question: SpeedQuestion) -> SpeedAnswer:
        """All devices of a kind at once: they do not share anything that is measured."""
        found: list[DeviceSpeed] = []
        for post in {post.accelerator: post for post in question.posts}.values():
            numbers = range(num_devices(post))
            with ThreadPoolExecutor(_MOST_AT_ONCE, "dougong-speed") as threads:
                begin = [threads.submit(_measure, post, number, question) for number in numbers]
                found += [one.result() for one in begin]
        return SpeedAnswer(tuple(found))

    def close(self) -> None:
        """Be there no more."""
        for door in self._doors:
            door.close()


def num_devices(post: Post) -> int:
    """How many devices of a post's kind are measured on this machine: one where workers share
    it."""
    try:
        return count_devices(get_accelerator(post.accelerator)) or _of_shared(post)
    except DeviceError:
        return 0


def _of_shared(post: Post) -> int:
    return 1 if get_accelerator(post.accelerator).shares_machine else 0


def _measure(post: Post, number: int, question: SpeedQuestion) -> DeviceSpeed:
    """By a process with a worker's environment, which may crash or hang."""
    accelerator = get_accelerator(post.accelerator)
    variables = accelerator.worker_environment(post.threads, post.deterministic)
    limit_s = question.deadlines.doctor_speed_s
    request = DeviceRequest(post.accelerator, number, question.precision, question.with_bits)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", _MODULE, str(os.getpid())],
            env=child_environment(variables),
            input=_REQUEST.dump_json(request).decode(),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if ended.returncode == 0:
            return _SPEED.validate_json(ended.stdout.strip().splitlines()[-1])
        words = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        problem = f"its process ended: {words[-1]}"
    except subprocess.TimeoutExpired:
        problem = f"its process has not ended within {limit_s:g} s"
    return DeviceSpeed(post.accelerator, number, problem=problem)
