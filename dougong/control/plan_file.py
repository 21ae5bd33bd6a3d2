"""The plan of a large run as a file of its directory, that workers read by its digest: in a message
to every agent, and from there to every worker, thousands of workers would each be told of all."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dougong.deadlines import Deadlines
from dougong.errors import LaunchError, PlanError
from dougong.parallel.plan import Plan

MOST_INLINE_BYTES = 1 << 17
"""A plan whose text is no longer travels with its task, and needs no storage."""


@dataclass(frozen=True)
class PlanFile:
    """Where the text of a plan lies, and its digest."""

    path: str
    digest: str


@dataclass(frozen=True)
class ReadPlan:
    """A plan that was read, for the next generation of the same one."""

    digest: str
    plan: Plan


def digest_of(text: str) -> str:
    """Of a plan's text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def plan_for_workers(plan: Plan, path: Path) -> Plan | PlanFile:
    """What a task says of it: a short plan itself, of a long one its file, which `path` is. The
    file is written when the plan is laid."""
    text = plan.to_json()
    return plan if len(text) <= MOST_INLINE_BYTES else PlanFile(str(path), digest_of(text))


def read_plan(file: PlanFile, deadlines: Deadlines) -> ReadPlan:
    """The plan, as soon as this machine sees the file as it was written.

    LaunchError when it is not there, is another one, or is no plan after `shared_file_s`.
    """
    until = time.monotonic() + deadlines.shared_file_s
    while True:
        try:
            text = Path(file.path).read_bytes().decode("utf-8", "replace")
            problem = f"has digest {digest_of(text)}: it is another plan's, or was cut"
        except OSError as error:
            text, problem = "", f"cannot be read: {error.strerror}"
        if text and digest_of(text) == file.digest:
            return ReadPlan(file.digest, _parse(text, file))
        if time.monotonic() > until:
            break
        time.sleep(deadlines.shared_file_every_s)
    waited = deadlines.words("shared_file_s")
    raise LaunchError(
        f"{file.path}: {problem}; the plan of this generation has digest {file.digest}, and this "
        f"machine has waited {waited} for it: all nodes need the same run directory, so look at "
        "its mount here"
    )


def _parse(text: str, file: PlanFile) -> Plan:
    try:
        return Plan.from_json(text)
    except (ValidationError, PlanError) as error:
        raise LaunchError(f"{file.path}: no plan of this release: {error}") from error
