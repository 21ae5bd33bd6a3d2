"""Whether the nodes of a run agree: on their software, and on the run directory. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from dougong.control.handshake import AgentFacts
from dougong.errors import LaunchError

_HERE = "this machine (dougong run)"


def check_agents(
    agents: Mapping[str, AgentFacts], run_dir: str, here: Mapping[str, str] | None = None
) -> None:
    """LaunchError when agents do not run the same software as each other and as the machine of
    `dougong run`, or do not see the run directory. `here`: package -> version on that machine
    (None: it takes no part)."""
    blind = sorted({facts.node for facts in agents.values() if not facts.sees_run_dir})
    if blind:
        raise LaunchError(
            f"the run directory {run_dir} is not to be seen on {', '.join(blind)}; every node must "
            "reach it under the same path: pass --run-dir on storage that they share"
        )
    nodes = {f"{facts.node} ({agent})": facts.versions for agent, facts in agents.items()}
    machines = nodes if here is None else {_HERE: here, **nodes}
    packages = list(dict.fromkeys(itertools.chain(*machines.values())))
    skewed = [name for name in packages if _is_skewed(name, nodes, here)]
    if skewed:
        table = version_table(machines, packages, skewed)
        raise LaunchError(
            f"the nodes differ in {', '.join(skewed)}; a run needs the same everywhere:\n{table}\n"
            "install the same versions on all nodes, then run again"
        )


def _is_skewed(
    package: str, nodes: Mapping[str, Mapping[str, str]], here: Mapping[str, str] | None
) -> bool:
    """Whether the nodes have several versions of it, or another one than the machine `here`.

    Of that machine the release alone counts: it computes nothing, so its torch may be another build
    (`+cpu`). But it reads and judges what the nodes send, lays the plan and commits checkpoints.
    """
    found = {versions.get(package) for versions in nodes.values()}
    if len(found) > 1 or here is None:
        return len(found) > 1
    return bool({_release(here.get(package))} - {_release(version) for version in found})


def _release(version: str | None) -> str | None:
    """`2.13.0` of `2.13.0+cpu`."""
    return None if version is None else version.partition("+")[0]


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
