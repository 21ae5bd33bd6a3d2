"""The schedules by name, and the programs of all workers of a job."""

from __future__ import annotations

from collections.abc import Mapping

from dougong.errors import PlanError
from dougong.parallel.plan import Role
from dougong.parallel.schedules.af_pipe import af_pipe
from dougong.parallel.schedules.colocated import colocated
from dougong.parallel.schedules.operation import Program, ScheduleFunction
from dougong.parallel.schedules.serial import serial
from dougong.parallel.schedules.zebra import zebra

SCHEDULES: dict[str, ScheduleFunction] = {
    "serial": serial,
    "colocated": colocated,
    "zebra": zebra,
    "af_pipe": af_pipe,
}


def make_programs(
    name: str, num_sites: int, num_microbatches: int, roles: Mapping[str, Role]
) -> list[Program]:
    """The program of every worker (`roles`: worker -> what it has) under the schedule `name`.

    Raises `PlanError` for an unknown name, or a role that the schedule is not made for.
    """
    if name not in SCHEDULES:
        raise PlanError(f"schedule: {name!r} is not one of {', '.join(SCHEDULES)}")
    by_role = {
        role: tuple(SCHEDULES[name](num_sites, num_microbatches, role))
        for role in dict.fromkeys(roles.values())
    }
    return [Program(worker, role, by_role[role]) for worker, role in roles.items()]
