"""Whether the machines of a run agree: on their software, on its source, on the run directory, and
on the files that the job names. Pure."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import AgentFacts, FolderTrouble, PackageCode
from dougong.errors import LaunchError

_HERE = "this machine (dougong run)"
_MOST_COLUMNS = 5
_SHOWN_DIGITS = 8
_SHARED = "give a new run a --run-dir on storage that all of them share"


@dataclass(frozen=True)
class Software:
    """What a machine runs: `versions` of packages, and `code`, the source that computes."""

    host: str
    versions: Mapping[str, str]
    code: Mapping[str, PackageCode]


def check_agents(agents: Mapping[str, AgentFacts], here: Software | None = None) -> None:
    """LaunchError when agents do not run the same software as each other and as the machine of
    `dougong run`, do not share its run directory, or do not see the job's files. `here`: the
    software of that machine (None: it takes no part)."""
    _check_run_directory(agents)
    _check_files(agents)
    _check_variables(agents)
    machines = {}
    for agent, facts in agents.items():
        machines[f"{facts.node} ({agent})"] = Software(facts.node, facts.versions, facts.code)
    _check_versions(machines, here)
    if here is not None:
        machines = {_HERE: here, **machines}
    for package in _packages(machines):
        _check_code(package, machines)


def _check_run_directory(agents: Mapping[str, AgentFacts]) -> None:
    troubles = [facts for facts in agents.values() if facts.trouble is not None]
    absent = {
        t.node: t.trouble.folder for t in troubles if t.trouble and t.trouble.fault == "absent"
    }
    told = [
        trouble_words(t.node, t.trouble) for t in troubles if t.trouble and t.node not in absent
    ]
    words = list(dict.fromkeys(told))
    if absent:
        words.append(_absent_words(sorted(absent), next(iter(absent.values())), agents))
    if words:
        raise LaunchError("; ".join(words))


def _absent_words(nodes: Sequence[str], folder: str, agents: Mapping[str, AgentFacts]) -> str:
    """Where nobody but this machine sees the folder, it is this one that has another."""
    if {facts.node for facts in agents.values()} == set(nodes) and len(nodes) > 1:
        where = f"here alone, and not on {', '.join(nodes)}: it is not the storage that they share"
        return f"the run directory {folder} is {where}; {_SHARED}, or mount it here"
    return (
        f"the run directory {folder} is not to be seen on {', '.join(nodes)}; every node must reach"
        f" it under the same path: mount it there, or {_SHARED}"
    )


def _check_files(agents: Mapping[str, AgentFacts]) -> None:
    """Workers of one node would look for it in vain, a minute later."""
    nodes: dict[str, list[str]] = {}
    for facts in agents.values():
        for name in facts.absent:
            nodes.setdefault(name, []).append(facts.node)
    if nodes:
        words = [f"{name} is here and not on {_listed(where)}" for name, where in nodes.items()]
        raise LaunchError(
            f"{'; '.join(words)}: every node reads the job's files itself; put them there under "
            "the same path, or name files on storage that all nodes share"
        )


def _check_variables(agents: Mapping[str, AgentFacts]) -> None:
    """A communicator whose members do not choose alike hangs, or adds in another order."""
    for island in dict.fromkeys(facts.island for facts in agents.values()):
        members = [facts for facts in agents.values() if facts.island == island]
        for name in get_accelerator(members[0].accelerator).agreed_variables:
            told = {facts.node: facts.environment.get(name) for facts in members}
            if len(set(told.values())) > 1:
                each = [f"{value or 'not set'} on {node}" for node, value in told.items()]
                raise LaunchError(
                    f"island {island}: {name} is {', '.join(each)}, and all its workers must have "
                    "one; set it alike, or nowhere, in the shells that start the nodes' Ray"
                )


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(nodes))


def trouble_words(node: str, trouble: FolderTrouble) -> str:
    """Why a folder cannot serve on a node, and what to do."""
    folder = trouble.folder
    match trouble.fault:
        case "other":
            what = f"{node} has another directory at {folder}{_mounts(trouble)}"
            found = "what this machine has just written is not in it"
        case "unanswered":
            what = f"what {node} writes into {folder} is not seen on the machine of `dougong run`"
            found = "it goes elsewhere" + _mounts(trouble)
        case "unreadable":
            return f"{folder} cannot be read on {node}{_user(trouble)}: {_remedy(trouble)}"
        case "unwritable":
            return f"{folder} cannot be written on {node}{_user(trouble)}: {_remedy(trouble)}"
    return (
        f"{what}: {found}; mount there what this machine has at that path (a copy will not do), or "
        f"{_SHARED}"
    )


def _mounts(trouble: FolderTrouble) -> str:
    """Which file systems the two are, where that tells them apart."""
    if not trouble.mount or trouble.mount == trouble.mount_here:
        return ""
    return f" ({trouble.mount} there, {trouble.mount_here} here)"


def _user(trouble: FolderTrouble) -> str:
    is_denied = trouble.number in (errno.EACCES, errno.EPERM)
    return f" by user {trouble.user}" if is_denied and trouble.user is not None else ""


def _remedy(trouble: FolderTrouble) -> str:
    """The system's words, and what helps."""
    return f"{trouble.reason}; {what_helps(trouble.number)}, or {_SHARED}"


def what_helps(number: int | None) -> str:
    """What is to be done where storage refuses with this number of the system's; None: it has not
    answered."""
    match number:
        case errno.EACCES | errno.EPERM:
            return "let that user read and write there (an NFS export may make root another user)"
        case errno.EROFS:
            return "mount it there for writing"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room"
        case errno.ENOTDIR:
            return "move it away"
    return "mount it there anew, or mend it"


def _check_versions(nodes: Mapping[str, Software], here: Software | None) -> None:
    machines = nodes if here is None else {_HERE: here, **nodes}
    versions = {machine: software.versions for machine, software in machines.items()}
    packages = list(dict.fromkeys(itertools.chain(*versions.values())))
    skewed = [name for name in packages if _is_skewed(name, nodes, here)]
    if skewed:
        table = version_table(versions, packages, skewed)
        raise LaunchError(
            f"the nodes differ in {', '.join(skewed)}; a run needs the same everywhere:\n{table}\n"
            "install the same versions on all nodes, then run again"
        )


def _is_skewed(package: str, nodes: Mapping[str, Software], here: Software | None) -> bool:
    """Whether the nodes have several versions of it, or another one than the machine `here`.

    Of that machine the release alone counts: it computes nothing, so its torch may be another build
    (`+cpu`). But it reads and judges what the nodes send, lays the plan and commits checkpoints.
    """
    found = {software.versions.get(package) for software in nodes.values()}
    if len(found) > 1 or here is None:
        return len(found) > 1
    return bool({_release(here.versions.get(package))} - {_release(version) for version in found})


def _release(version: str | None) -> str | None:
    """`2.13.0` of `2.13.0+cpu`."""
    return None if version is None else version.partition("+")[0]


def _packages(machines: Mapping[str, Software]) -> list[str]:
    """Those whose source some machine has looked at."""
    return list(dict.fromkeys(itertools.chain(*(software.code for software in machines.values()))))


def _check_code(package: str, machines: Mapping[str, Software]) -> None:
    """LaunchError where machines have other source of a package than most of them. A machine that
    had no cause to look at it, such as for another machine's accelerator, takes no part."""
    found = {name: s.code[package] for name, s in machines.items() if package in s.code}
    usual, *rest = _alike(found)
    if not rest:
        return
    others = list(itertools.chain(*rest))
    folders, table = source_differences(found)
    advice = "\n".join(dict.fromkeys(copy_commands(found, machines, usual[0], others)))
    raise LaunchError(
        f"other source under the same version on {', '.join(others)}: {folders}; it may compute "
        f"other bits, so a run needs the same everywhere:\n{table}\n"
        "bring all machines to one state (of a checkout `git status` tells what has been changed), "
        f"such as by\n{advice}\nthen run again"
    )


def source_differences(found: Mapping[str, PackageCode]) -> tuple[str, str]:
    """The folders that are not the same in all, in words, and a table of their digests."""
    codes = list(found.values())
    folders = sorted(set(itertools.chain(*(code.digests for code in codes))))
    differing = [name for name in folders if _differs(name, codes)]
    shown, num_more = differing[:_MOST_COLUMNS], len(differing[_MOST_COLUMNS:])
    words = ", ".join(shown) + (f" and {num_more} more" if num_more else "")
    return words, version_table({name: _short(c.digests) for name, c in found.items()}, shown, ())


def _differs(folder: str, codes: Sequence[PackageCode]) -> bool:
    return len({code.digests.get(folder) for code in codes}) > 1


def _alike(found: Mapping[str, PackageCode]) -> list[list[str]]:
    """Machines with the same source, the largest group first; of equal ones the one that comes
    first, in which the machine of `dougong run` is."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, code in found.items():
        groups.setdefault(tuple(sorted(code.digests.items())), []).append(name)
    return sorted(groups.values(), key=len, reverse=True)


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    return {folder: digest[:_SHOWN_DIGITS] for folder, digest in digests.items()}


def copy_commands(
    found: Mapping[str, PackageCode],
    machines: Mapping[str, Software],
    usual: str,
    others: Sequence[str],
) -> Iterator[str]:
    """A command for each of the other machines, which gives it the source of the `usual` one."""
    source = found[usual].place
    for name in others:
        host, place = machines[name].host, found[name].place or source
        is_here = host == machines[usual].host
        origin = source if is_here else f"{machines[usual].host}:{source}"
        end = "" if source.endswith(".py") else "/"  # a package's folder, or a single module
        yield f"  on {host}: rsync -a --delete --exclude=__pycache__ {origin}{end} {place}{end}"


def version_table(
    software: Mapping[str, Mapping[str, str]], packages: Sequence[str], skewed: Sequence[str]
) -> str:
    """Machines by packages in plain text, for an error; the columns that differ are marked with
    `*`."""
    rows = [["node", *(f"{name}*" if name in skewed else name for name in packages)]]
    for machine, versions in software.items():
        rows.append([machine, *(versions.get(name, "-") for name in packages)])
    return _in_columns(rows)


def _in_columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
