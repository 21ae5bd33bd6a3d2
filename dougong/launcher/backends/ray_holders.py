"""Who holds a Ray cluster's devices, as far as Ray's own tables tell it: placement groups with what
they hold, actors without, and the commands of their drivers.

Ray must have been joined before anything here is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST_LETTERS = 60
"""Of a driver's command."""
_OURS = ""
"""Stands for this run among the jobs."""
_JOB_LETTERS = 8
"""The id of a placement group ends with that of its job."""


@dataclass(frozen=True)
class Holders:
    """`groups`: by node and job, what placement groups hold. `actors`: jobs that have actors on a
    node. `jobs`: the command of each, and its machine."""

    groups: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    actors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    jobs: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def read(own_groups: set[str]) -> Holders:
        """From the cluster's tables. `own_groups`: ids of the placement groups that are ours."""
        import ray

        state = ray._private.state.state
        groups = []
        for number, group in ray.util.placement_group_table().items():
            job = _OURS if number in own_groups else number[-_JOB_LETTERS:]
            groups.append((job, group))
        own_job = ray.get_runtime_context().get_job_id()
        actors = (one for one in state.actor_table(None).values() if one["JobID"] != own_job)
        return Holders(_by_node(groups), _jobs_by_node(actors), _commands(state.job_table()))

    def of(self, node: str, held: Mapping[str, float]) -> tuple[str, ...]:
        """Who holds these amounts of a node's resources, one entry each, in words."""
        words = []
        rest = Counter({name: amount for name, amount in held.items() if amount > 0})
        for job, resources in self.groups.get(node, {}).items():
            part = {name: amount for name, amount in resources.items() if rest[name] > 0}
            rest.subtract(part)
            if part and job != _OURS:
                words.append(f"{self._command(job)} ({_amounts(part)})")
        left = {name: amount for name, amount in rest.items() if amount > 0}
        if left:
            words.append(f"{self._without_group(node)} ({_amounts(left)})")
        return tuple(words)

    def _without_group(self, node: str) -> str:
        """Whose actors may hold what no placement group does."""
        jobs = sorted(self.actors.get(node, frozenset()) - self.groups.get(node, {}).keys())
        return " or ".join(self._command(job) for job in jobs) or "other jobs"

    def _command(self, job: str) -> str:
        return self.jobs.get(job, f"Ray's job {job}")


def _by_node(
    groups: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[str, dict[str, Counter[str]]]:
    """What placement groups hold, each with its job, by node and job."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for job, group in groups:
        for index, node in group["bundles_to_node_id"].items():
            if node:
                held = found.setdefault(node, {}).setdefault(job, Counter())
                held.update(group["bundles"][index])
    return found


def _jobs_by_node(actors: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for actor in actors:
        if actor["State"] == "ALIVE":
            node = actor["Address"]["NodeID"]
            found[node] = found.get(node, frozenset()) | {actor["JobID"]}
    return found


def _commands(jobs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    commands = {}
    for job in jobs:
        words = str(job.get("Entrypoint") or "a driver")
        if len(words) > _MOST_LETTERS:
            words = f"{words[:_MOST_LETTERS]}..."
        commands[job["JobID"]] = f"`{words}` on {job.get('DriverIPAddress')}"
    return commands


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()))
