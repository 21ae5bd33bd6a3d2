"""A controller that does not answer, and the command that stands beside it, as another terminal
sees them: what will happen by itself, and what to type where nothing will.

The command (`launcher.supervisor`) follows a controller that is dead or stands stopped; one that
hangs otherwise it leaves alone, and a command that is stopped itself does nothing.
"""

from __future__ import annotations

import socket

from dougong.control.processes import process_state
from dougong.deadlines import DEADLINES, Deadlines
from dougong.records.status import ControllerAddress

STOPPED = "T"
"""The state of a process that a signal has stopped; a debugger's is another."""


def controller_words(known: ControllerAddress | None) -> str:
    """A controller, named by its process."""
    who = "its controller"
    return who if known is None else f"{who} (process {known.pid} on {known.machine})"


def silence_words(known: ControllerAddress | None) -> str:
    """That a controller does not answer, as a part of a sentence."""
    state = "" if known is None else _state(known, known.pid)
    if state == STOPPED:
        return f"{controller_words(known)} is stopped"
    why = "it hangs" if state else "it is stopped or hangs"
    return f"{controller_words(known)} is there and does not answer: {why}"


def what_follows(
    known: ControllerAddress | None, resume: str, deadlines: Deadlines = DEADLINES
) -> str:
    """What becomes of a controller that does not answer, and what to type. `resume`: what goes on
    with the run where nobody does so by himself."""
    if known is None:
        return f"end it, then: {resume}"
    wake, kill = f"`kill -CONT {known.pid}`", f"`kill -9 {known.pid}`"
    command, machine = known.beside, known.machine
    if command is None or _state(known, command) is None:
        return f"{wake} on {machine} wakes it, {kill} ends it, then: {resume}"
    if _state(known, command) == STOPPED:
        return f"{_wake_words(known, command)}; {wake} on {machine} wakes the controller"
    follows = f"the command beside it (process {command}) goes on with another one"
    waits = f"when it has been stopped for {deadlines.controller_silence_s:g} s {follows}"
    if _state(known, known.pid) == STOPPED:
        return f"wait: {waits}; {wake} on {machine} wakes it before that"
    ends = f"{kill} on {machine} ends it, and {follows}"
    return ends if _is_here(known) else f"{waits}; where it hangs, {ends}"


def stopped_command(known: ControllerAddress | None, is_dead: bool = False) -> str:
    """That the command beside a controller that answers, or `is_dead`, is stopped, and what wakes
    it; empty where it is not, or is on another machine."""
    if known is None or known.beside is None or _state(known, known.beside) != STOPPED:
        return ""
    who, wakes = f"its controller (process {known.beside})", _wake_words(known, known.beside)
    if is_dead:
        follows = "goes on with the run when it is woken"
        return f"the command that stood beside {who} is stopped, and {follows}: {wakes}"
    risk = "training goes on, and nobody would follow the controller"
    return f"the command beside {who} is stopped: {risk}; {wakes}"


def _wake_words(known: ControllerAddress, command: int) -> str:
    return (
        f"`kill -CONT {command}` on {known.machine}, or `fg` in its terminal, wakes the command "
        "beside it"
    )


def _is_here(known: ControllerAddress) -> bool:
    return known.machine == socket.gethostname()


def _state(known: ControllerAddress, pid: int) -> str | None:
    """As /proc has it; None: there is no such process; empty: on another machine."""
    if not _is_here(known):
        return ""
    return process_state(pid) or None
