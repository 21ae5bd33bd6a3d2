"""Whether all nodes, and the machine of the command, run the same software. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from dougong.control.handshake import PackageCode
from dougong.doctor.ask.observations import Observations
from dougong.doctor.facts import HERE
from dougong.doctor.majority import judge_kinds
from dougong.doctor.record import DoctorCheck, Symptom, check_of
from dougong.planner.agreement import Software, copy_commands, source_differences

VERSIONS, SOURCE = "versions", "source"
_PYTHON = "python"


def check_versions(seen: Observations) -> DoctorCheck:
    """Python and the packages whose versions can change a run's bits."""
    versions = {seen.title(node): facts.versions for node, facts in seen.facts.items()}
    told = {HERE: _like_a_node(seen.place.here.versions, versions), **versions}
    packages = dict.fromkeys(itertools.chain(*told.values()))
    symptoms: list[Symptom] = []
    for package in packages:
        symptoms += _on_package(package, {name: found.get(package) for name, found in told.items()})
    return check_of(VERSIONS, tuple(symptoms), _groups(told))


def _like_a_node(here: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Versions of the command's machine, which computes nothing: of a package its release alone
    counts, so that another build (`+cpu`) is taken for the nodes' own."""
    found = dict(here)
    for package, version in here.items():
        builds = [versions.get(package, "") for versions in nodes.values()]
        alike = [one for one in builds if one.partition("+")[0] == version.partition("+")[0]]
        found[package] = next(iter(alike), version)
    return found


def _on_package(package: str, found: Mapping[str, str | None]) -> list[Symptom]:
    judged = judge_kinds(found)
    wanted = f"{package} {judged.usual}"
    remedy = f"install {wanted} there, in the environment in which its `ray start` was typed"
    if package == _PYTHON:
        remedy = f"start its Ray from an environment of {wanted}"
    if judged.usual == "not installed" or judged.usual is None:
        remedy = f"install the same {package} everywhere, or nowhere"
    if judged.disagree:
        each = ", ".join(f"{version} on {name}" for name, version in found.items())
        words = f"{package}: {each}; which is right cannot be said"
        return [Symptom(words=words, remedy=f"install the same {package} on all of them")]
    symptoms = []
    for name in judged.named:
        words = f"{name} has {package} {found[name]}, the others {judged.usual}"
        symptoms.append(Symptom(words=words, remedy=remedy, nodes=(name,)))
    return symptoms


def _groups(told: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """A line for each set of versions, with the machines that have it."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, versions in told.items():
        installed = [pair for pair in versions.items() if pair[1] != "not installed"]
        alike.setdefault(tuple(installed), []).append(name)
    lines = []
    for versions_of, names in alike.items():
        words = ", ".join(f"{package} {version}" for package, version in versions_of)
        lines.append(f"{', '.join(names)}: {words}")
    return tuple(lines)


def check_source(seen: Observations) -> DoctorCheck:
    """The code that computes, by its digest: a version does not tell what was changed since."""
    machines = {HERE: seen.place.here}
    for node, facts in seen.facts.items():
        machines[seen.title(node)] = Software(facts.host, facts.versions, facts.code)
    packages = dict.fromkeys(itertools.chain(*(one.code for one in machines.values())))
    symptoms: list[Symptom] = []
    evidence = []
    for package in packages:
        alike = _of_usual_version(package, machines)
        symptoms += _on_source(package, alike, machines)
        kinds = {_digests(code) for code in alike.values()}
        number = "one source" if len(kinds) == 1 else f"{len(kinds)} sources"
        evidence.append(f"{package}: {number} in {len(alike)} environments")
    return check_of(SOURCE, tuple(symptoms), tuple(evidence))


def _of_usual_version(package: str, machines: Mapping[str, Software]) -> dict[str, PackageCode]:
    """The source of a package where it has been looked at, but for machines with another version of
    it: they are named for that."""
    found = {name: one.code[package] for name, one in machines.items() if package in one.code}
    releases = {name: _release(machines[name], package) for name in found}
    odd = judge_kinds(releases).named
    return {name: code for name, code in found.items() if name not in odd}


def _release(machine: Software, package: str) -> str:
    return machine.versions.get(package, "").partition("+")[0]


def _digests(code: PackageCode) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(code.digests.items()))


def _on_source(
    package: str, found: Mapping[str, PackageCode], machines: Mapping[str, Software]
) -> list[Symptom]:
    judged = judge_kinds({name: _digests(code) for name, code in found.items()})
    if judged.disagree:
        folders, table = source_differences(found)
        words = f"{package} has other source under one version: {folders}\n{table}"
        remedy = "bring all machines to one state (of a checkout, see `git status`)"
        return [Symptom(words=words, remedy=remedy)]
    usual = [name for name in found if name not in judged.named]
    return [_odd_source(package, found, machines, (usual[0], name)) for name in judged.named]


def _odd_source(
    package: str,
    found: Mapping[str, PackageCode],
    machines: Mapping[str, Software],
    names: Sequence[str],
) -> Symptom:
    """Of the second of two machines, against the first."""
    usual, odd = names
    folders, _ = source_differences({name: found[name] for name in names})
    if not found[odd].place:
        return Symptom(
            words=f"{odd} has no {package}", remedy=f"install {package} there", nodes=(odd,)
        )
    remedy = "its source was changed while it was looked at: examine again"
    if (machines[usual].host, found[usual].place) != (machines[odd].host, found[odd].place):
        (command,) = copy_commands(found, machines, usual, [odd])
        remedy = f"bring it to the others' state, such as by {command.strip()}"
    return Symptom(
        words=f"{odd} has other source of {package} under the same version: {folders}",
        remedy=remedy,
        nodes=(odd,),
    )
