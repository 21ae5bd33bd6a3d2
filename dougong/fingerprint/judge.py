"""Which workers may replace one another: pure decisions over fingerprints.

Within a role every worker must be of one class, since a plan may give any lane (attention) or
expert (experts) to any of them; a `both` worker counts in both. Two roles may be of two classes:
each kind of operator then still runs on one. A checkpoint holds the classes that made it, and
whoever goes on from it must be of the same.

What was not measured is never equal: a probe without an answer, or with two of them, a fingerprint
that is not there or was taken by other probes is told, and refused where the job promises its bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dougong.fingerprint.record import Fingerprint, differing_environment, differing_probes
from dougong.ui.formatting import plural, worker_list

ROLES = ("attention", "experts")
_MOST_PROBES = 6
_ACCEPT = "accept results that are equal up to rounding with `-o numerics=bounded`"

Prints = Mapping[str, Fingerprint]
_ONE: Mapping[str, str] = MappingProxyType({})
"""The machines of workers that share one."""


@dataclass(frozen=True)
class Verdict:
    """`refusal`: why the job must not go on; None when it may. `warnings`: what the user should
    know even so."""

    refusal: str | None = None
    warnings: tuple[str, ...] = ()


def judge_workers(
    prints: Prints,
    roles: Mapping[str, str],
    strict: bool,
    machines: Mapping[str, str] = _ONE,
    repeats: bool = False,
) -> Verdict:
    """Whether the workers of each role compute alike, and each of them the same every time.

    `prints`, `roles` and `machines`: by worker's name; a machine that is empty or not there is not
    named. `strict`: the job promises the same bits on any plan, so that other ones are refused;
    `repeats`: it promises them from run to run at least, so that a device is refused whose bits
    change by themselves.
    """
    differences = []
    for role in ROLES:
        text = _unequal(role, _of_role(prints, roles, role), machines)
        if text is not None:
            differences.append(text)
    unknown = [*_unanswered(prints, machines), *_asked_apart(prints, machines)]
    unstable = list(_unstable(prints, machines))
    broken = [*differences, *unknown] if strict else []
    broken += unstable if strict or repeats else []
    told = [text for text in (*differences, *unknown, *unstable) if text not in broken]
    if not broken:
        return Verdict(None, tuple(told))
    return Verdict("\n".join([*broken, _advice(differences, unstable)]), tuple(told))


def _advice(differences: Sequence[str], unstable: Sequence[str]) -> str:
    advice = []
    if differences:
        advice.append(
            "make them equal (threads, software, kind of device), give the roles to different "
            "islands"
        )
    if unstable:
        advice.append(
            "take another model.attention where it is attention's, or have the device looked at"
        )
    return ", or ".join([*advice, _ACCEPT])


def record(prints: Prints, roles: Mapping[str, str]) -> dict[str, Any]:
    """For a checkpoint: {"roles": {role: [class, ...]}, "prints": {class: fingerprint}}, equal ones
    once."""
    by_role = {role: sorted(classes(_of_role(prints, roles, role))) for role in ROLES}
    by_class = {found.kernel_class: found.to_json() for found in prints.values()}
    return {"roles": by_role, "prints": by_class}


def judge_resume(before: Mapping[str, Any], now: Mapping[str, Any], strict: bool) -> Verdict:
    """Whether workers with the record `now` may go on from a checkpoint with the record `before`
    (empty: none)."""
    text = _not_comparable(before, now)
    if text is not None:
        if strict:
            return Verdict(f"{text}; go on with the dougong that wrote it, or {_ACCEPT}")
        return Verdict(None, (f"{text}; for its own bits go on with the dougong that wrote it",))
    if not before:
        return Verdict()
    moved = []
    for role in ROLES:
        old, new = before["roles"].get(role, ()), now["roles"][role]
        if set(old) != set(new):
            moved.append(_moved(role, before, now))
    if strict and moved:
        return Verdict("\n".join([*moved, f"put back what differs, or {_ACCEPT}"]))
    return Verdict(None, tuple(moved))


def classes(prints: Prints) -> dict[str, list[str]]:
    """Class -> its workers, the largest first."""
    workers_of: dict[str, list[str]] = {}
    for worker, fingerprint in prints.items():
        workers_of.setdefault(fingerprint.kernel_class, []).append(worker)
    return dict(sorted(workers_of.items(), key=lambda item: -len(item[1])))


def difference(a: Fingerprint, b: Fingerprint) -> list[str]:
    """Lines that say which probes and which entries of the environment differ."""
    probes = differing_probes(a, b)
    names = "; ".join(probes[:_MOST_PROBES])
    if len(probes) > _MOST_PROBES:
        names += f", and {len(probes) - _MOST_PROBES} more"
    lines = [f"  {len(probes)} of {plural(len(a.probes), 'probe')} differ: {names}"]
    environment = differing_environment(a, b)
    if not environment:
        return [*lines, "  nothing recorded of the environment differs"]
    for name, (one, other) in environment.items():
        lines.append(f"  {name}: {one} | {other}")
    return lines


def _of_role(prints: Prints, roles: Mapping[str, str], role: str) -> dict[str, Fingerprint]:
    return {worker: found for worker, found in prints.items() if roles[worker] in (role, "both")}


def _placed(workers: Iterable[str], machines: Mapping[str, str]) -> str:
    """`east/0-1 on node0, west/0 on node1`."""
    on: dict[str, list[str]] = {}
    for worker in workers:
        on.setdefault(machines.get(worker, ""), []).append(worker)
    named = [(worker_list(found), machine) for machine, found in on.items()]
    return ", ".join(f"{found} on {machine}" if machine else found for found, machine in named)


def _unequal(role: str, prints: Prints, machines: Mapping[str, str]) -> str | None:
    """What differs among the workers of a role; None where all are of one class."""
    groups = classes(prints)
    if len(groups) < 2:
        return None
    lines = [
        f"the kernels of the workers of role {role} give different bits, so the plan would decide "
        "the result:"
    ]
    lines += [f"  class {name}: {_placed(workers, machines)}" for name, workers in groups.items()]
    first, *others = [prints[workers[0]] for workers in groups.values()]
    for other in others:
        lines.append(f"{first.kernel_class} | {other.kernel_class}:")
        lines += difference(first, other)
    return "\n".join(lines)


def _unstable(prints: Prints, machines: Mapping[str, str]) -> Iterable[str]:
    """A line for each set of workers that have the same unstable probes."""
    workers_of: dict[tuple[str, ...], list[str]] = {}
    for worker, found in prints.items():
        if found.unstable:
            workers_of.setdefault(found.unstable, []).append(worker)
    for probes, workers in workers_of.items():
        yield (
            f"{_placed(workers, machines)}: the same call gives different bits from one time to "
            f"the next: {'; '.join(probes)}"
        )


def _unanswered(prints: Prints, machines: Mapping[str, str]) -> Iterable[str]:
    """A line for each set of workers on which the same probes gave no bits."""
    workers_of: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for worker, found in prints.items():
        if found.unanswered:
            workers_of.setdefault(tuple(found.unanswered.items()), []).append(worker)
    for probes, workers in workers_of.items():
        named = [f"{name} ({why})" for name, why in probes[:_MOST_PROBES]]
        if len(probes) > _MOST_PROBES:
            named.append(f"and {len(probes) - _MOST_PROBES} more")
        yield (
            f"{_placed(workers, machines)}: {plural(len(probes), 'probe')} cannot run, so nothing "
            f"says which bits these kernels give: {'; '.join(named)}"
        )


def _asked_apart(prints: Prints, machines: Mapping[str, str]) -> Iterable[str]:
    """A line when workers were not asked the same."""
    workers_of: dict[str, list[str]] = {}
    for worker, found in prints.items():
        workers_of.setdefault(found.question, []).append(worker)
    if len(workers_of) > 1:
        groups = " | ".join(_placed(workers, machines) for workers in workers_of.values())
        yield f"the workers were not given the same probes, so nothing compares them: {groups}"


def _not_comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why a checkpoint's record and that of the workers say nothing of each other; None where they
    do, or where neither was made: then no kernels are looked at in this run."""
    if bool(before) != bool(now):
        whom = "the checkpoint" if now else "these workers"
        return f"no fingerprint was taken of {whom}, so nothing says whether kernels are the same"
    if before and _questions(before) != _questions(now):
        return (
            f"the checkpoint's fingerprints were taken by other probes (version "
            f"{_versions(before)} then, {_versions(now)} now), so nothing says whether kernels are "
            "the same"
        )
    return None


def _moved(role: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = before["roles"].get(role, ()), now["roles"][role]
    lines = [
        f"role {role}: the checkpoint was computed in class {', '.join(old)}, these workers are "
        f"{', '.join(new)}"
    ]
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    for old_class, new_class in zip(gone, come, strict=False):
        was = Fingerprint.from_json(before["prints"][old_class])
        lines += difference(was, Fingerprint.from_json(now["prints"][new_class]))
    return "\n".join(lines)


def _questions(kept: Mapping[str, Any]) -> set[str]:
    return {found["question"] for found in kept["prints"].values()}


def _versions(kept: Mapping[str, Any]) -> str:
    versions = {Fingerprint.from_json(found).version for found in kept["prints"].values()}
    return ", ".join(map(str, sorted(versions)))
