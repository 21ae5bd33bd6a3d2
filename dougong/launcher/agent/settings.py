"""What an agent is given at its start."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from dougong.addresses import Ports
from dougong.control.fork_messages import StartServer
from dougong.deadlines import DEADLINES, Deadlines
from dougong.records.shared_folder import FolderProof


@dataclass(frozen=True)
class AgentSettings:
    """What an agent must know to find its controller and to start its workers.

    `proof`: by which it shows that it shares the run directory, None where nobody asks;
    `model_types`: whose source it looks at; `files`: of the job, which it looks for.
    `preload`: what the fork server loads, as `StartServer` says. `cwd`: the driver's directory,
    taken if it exists here. `parent`: the process whose death ends ours; None: its controller's
    silence alone. `is_followed`: another controller may follow this one, for which it then waits.
    `ray_node`: where Ray has placed it. `ports`: what it and its workers listen on;
    None: the system chooses. `fence`: the number of its controller. `avoided`: keys of devices that
    it leaves out. `adopts_from`: workers that an earlier controller has left go on with what they
    hold in memory, if their generation was this one or a later one; None: none does. `outlives`: it
    waits `resume_s` for another controller, also where nobody holds its line any more. `visible`:
    the devices that Ray has given to it, as the accelerator's variable has them.
    """

    name: str
    island: str
    accelerator: str
    threads: int
    deterministic: bool
    controller: tuple[str, int]
    token: str
    run_dir: str
    preload: tuple[str, ...]
    cwd: str
    parent: int | None = None
    proof: FolderProof | None = None
    model_types: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    deadlines: Deadlines = DEADLINES
    ports: Ports | None = None
    fence: int = 0
    is_followed: bool = False
    ray_node: str | None = None
    avoided: tuple[str, ...] = ()
    adopts_from: int | None = None
    outlives: bool = False
    visible: str | None = None

    def fork_server(self, adopts: bool) -> StartServer:
        """What a fork server is told at its start."""
        return StartServer(self.preload, self.deadlines, adopts, self.model_types, self.name)

    def to_json(self) -> str:
        """One line."""
        return TypeAdapter(AgentSettings).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> AgentSettings:
        """The reverse of `to_json`; pydantic's ValidationError for anything else."""
        return TypeAdapter(AgentSettings).validate_json(text, strict=True)
