"""The Ray nodes that run on this machine, found by their processes: nobody is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dougong.addresses import is_address

OWN_FOLDER = "dougong-ray-"
"""How the folder of a run's own Ray begins."""


@dataclass(frozen=True)
class LocalNode:
    """A Ray node of this machine. `head`: HOST:PORT of its cluster's head; `folder`: where it keeps
    its sessions; `cluster`: by which its head knows the cluster."""

    id: str
    head: str
    folder: str = ""
    cluster: str = ""

    @property
    def is_a_runs_own(self) -> bool:
        """Whether it has been started by a run of dougong for itself alone."""
        return Path(self.folder).name.startswith(OWN_FOLDER)


def local_nodes() -> list[LocalNode]:
    """All of them that this user may see."""
    return list(_read_nodes(_command_lines()))


def raylets_of(head: str) -> list[int]:
    """The process numbers of this machine's nodes of the cluster with that head."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        node = node_in(process.info["cmdline"] or ())  # None: it has ended, or is another user's
        if node is not None and node.head == head:
            found.append(process.pid)
    return found


def node_in(command: Sequence[str]) -> LocalNode | None:
    """The node whose raylet was started by these words; None where they are another program's, or
    an older Ray's."""
    if not command or Path(command[0]).name != "raylet":
        return None
    said = dict(word.lstrip("-").partition("=")[::2] for word in command[1:])
    node, head = said.get("node_id", ""), said.get("gcs-address", "")
    if not node or not is_address(head):
        return None
    return LocalNode(node, head, said.get("temp_dir", ""), said.get("cluster-id", ""))


def _read_nodes(commands: Iterator[Sequence[str]]) -> Iterator[LocalNode]:
    for command in commands:
        node = node_in(command)
        if node is not None:
            yield node


def _command_lines() -> Iterator[Sequence[str]]:
    for process in psutil.process_iter(["cmdline"]):
        yield process.info["cmdline"] or ()  # None: it has ended, or is another user's
