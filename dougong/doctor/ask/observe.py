"""Asking the nodes, one thing after another: what they are, whether they reach each other, how
quick they are. Nothing is judged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import replace
from pathlib import Path

from dougong.control.bounded import answer_within
from dougong.control.path_messages import TryPaths
from dougong.doctor.ask.demand import DoctorRequest, demand_of
from dougong.doctor.ask.measure import measure_devices, measure_links, measure_storage
from dougong.doctor.ask.nodes import ExaminedNodes
from dougong.doctor.ask.observations import ClockFacts, Inquiry, Observations, Viewpoint
from dougong.doctor.facts import (
    CLOCK,
    LOOK,
    OPEN,
    PATHS,
    ClockQuestion,
    Doors,
    DoorsQuestion,
    LookQuestion,
    PathsQuestion,
)
from dougong.errors import StorageError
from dougong.launcher.agent.facts import installed_versions
from dougong.launcher.agent.here.code import code_of
from dougong.planner.agreement import Software
from dougong.planner.nodes import Node
from dougong.records.files import nearest_place
from dougong.records.shared_folder import FolderProver

Tell = Callable[[str], None]
"""Says what is being done."""

_CLOCK_TRIES = 5


def here(request: DoctorRequest, host: str) -> Software:
    """The software of the process in which the command runs."""
    return Software(host, installed_versions(), code_of(request.model_types, request.kinds))


def observe(
    nodes: ExaminedNodes, request: DoctorRequest, place: Viewpoint, shared: bool, tell: Tell
) -> Observations:
    """Everything that is asked for. Raises LaunchError where the nodes cannot be listed."""
    tell("which nodes there are")
    listed = {node.id: node for node in _without_earlier_lives(nodes.nodes(request.counted_kinds))}
    found = Observations(request, place, listed)
    found.silent |= {node.id: node.gone for node in listed.values() if node.gone}
    found.silent |= nodes.begin([name for name in listed if name not in found.silent])
    living = [node for name, node in listed.items() if name not in found.silent]
    found.demand = demand_of(request, living, shared)
    inquiry = Inquiry(nodes, found, request.deadlines)
    tell("what the nodes are")
    _look(inquiry)
    _read_clocks(inquiry)
    tell("whether they reach each other")
    doors = _open_doors(inquiry)
    _try_paths(inquiry)
    if not request.quick:
        tell("how quick devices and memory are")
        measure_devices(inquiry)
        tell("how quick the storage is")
        measure_storage(inquiry)
        tell("how quick the links are")
        measure_links(inquiry, doors)
    return found


def _without_earlier_lives(nodes: Sequence[Node]) -> list[Node]:
    """Without what Ray still lists of a machine that is there again; by name."""
    living = {node.address for node in nodes if not node.gone}
    present = [node for node in nodes if not (node.gone and node.address in living)]
    return sorted(present, key=lambda node: node.order)


def _look(inquiry: Inquiry) -> None:
    """What each node is; whoever does not say it is examined no further."""
    request, place = inquiry.found.request, inquiry.found.place
    folder = _folder(inquiry)
    prover = _prover(inquiry, folder)
    questions = {}
    for name in inquiry.living:
        questions[name] = LookQuestion(
            name=name,
            posts=inquiry.found.demand.posts[name],
            towards=place.towards,
            folder=folder,
            deadlines=inquiry.deadlines,
            proof=None if prover is None else prover.proof,
            files=request.files,
            model_types=request.model_types,
            ports=request.ports,
        )
    answers = inquiry.nodes.ask(LOOK, questions, inquiry.deadlines.doctor_look_s)
    inquiry.found.facts |= answers.given
    inquiry.found.silent |= answers.silent
    if prover is not None:
        _hear_proofs(inquiry, prover)


def _folder(inquiry: Inquiry) -> str:
    """Where the run would lie, or the nearest place above it where there is anything on this
    machine."""
    run_dir, limit_s = inquiry.found.request.run_dir, inquiry.deadlines.shared_file_s
    try:
        return str(answer_within(limit_s, lambda: nearest_place(Path(run_dir))))
    except futures.TimeoutError:
        inquiry.found.folder_problem = f"{run_dir}: the file system here has not answered"
        return run_dir


def _prover(inquiry: Inquiry, folder: str) -> FolderProver | None:
    """None where there is one machine, or where nothing can be written here."""
    if inquiry.found.is_alone or inquiry.found.folder_problem:
        return None
    names, deadlines = inquiry.living, inquiry.deadlines
    try:
        return answer_within(
            deadlines.shared_file_s, lambda: FolderProver([Path(folder)], names, deadlines)
        )
    except StorageError as error:
        inquiry.found.folder_problem = str(error)
    except futures.TimeoutError:
        inquiry.found.folder_problem = f"{folder}: the file system here has not answered"
    return None


def _hear_proofs(inquiry: Inquiry, prover: FolderProver) -> None:
    """Look for the nodes' answers in the folder here, too."""
    facts = inquiry.found.facts

    def look_at_all() -> None:
        for name, told in list(facts.items()):
            trouble = prover.look(name, told.folder.trouble)
            facts[name] = replace(told, folder=replace(told.folder, trouble=trouble))
        prover.close()

    limit_s = inquiry.deadlines.shared_file_s + inquiry.deadlines.last_word_s
    try:
        answer_within(limit_s * len(facts), look_at_all)
    except futures.TimeoutError:
        inquiry.found.folder_problem = "the file system here has not answered"


def _read_clocks(inquiry: Inquiry) -> None:
    """Of each node the answer that came soonest: it leaves the least doubt."""
    for name in inquiry.living:
        for _ in range(_CLOCK_TRIES):
            begun, wall_s = time.monotonic(), time.time()
            answers = inquiry.nodes.ask(
                CLOCK, {name: ClockQuestion()}, inquiry.deadlines.doctor_clock_s
            )
            doubt_s = (time.monotonic() - begun) / 2
            if name not in answers.given:
                inquiry.found.unmeasured.append((name, "clock", answers.silent[name]))
                break
            ahead_s = answers.given[name].wall_s - (wall_s + doubt_s)
            known = inquiry.found.clocks.get(name)
            if known is None or doubt_s < known.doubt_s:
                inquiry.found.clocks[name] = ClockFacts(ahead_s, doubt_s)


def _open_doors(inquiry: Inquiry) -> dict[str, Doors]:
    """Have all nodes listen that can."""
    found, request = inquiry.found, inquiry.found.request
    questions = {}
    for name in inquiry.living:
        network = found.facts[name].network
        if not (network.problem or network.ports_problem):
            questions[name] = DoorsQuestion(
                name, network.address, found.place.token, request.ports, inquiry.deadlines
            )
    answers = inquiry.nodes.ask(OPEN, questions, inquiry.deadlines.doctor_clock_s)
    inquiry.note_silence("listening", answers.silent)
    found.ends |= {name: doors.end for name, doors in answers.given.items()}
    return answers.given


def _try_paths(inquiry: Inquiry) -> None:
    """Each node tries all others; alone, itself."""
    found = inquiry.found
    questions = {}
    for name in found.ends:
        ends = found.ends.items()
        others = tuple(end for other, end in ends if other != name or found.is_alone)
        if others:
            questions[name] = PathsQuestion(
                TryPaths(0, others), found.place.token, inquiry.deadlines
            )
    answers = inquiry.nodes.ask(PATHS, questions, inquiry.deadlines.doctor_paths_s)
    inquiry.note_silence("paths", answers.silent)
    found.paths |= {name: answer.results for name, answer in answers.given.items()}
