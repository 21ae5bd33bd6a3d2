"""`python -m dougong.testing`: a lab that stays until it is ended, for trying things by hand."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from dougong.control.processes import process_exists
from dougong.deadlines import DEADLINES
from dougong.errors import DougongError
from dougong.testing.host import Host
from dougong.testing.lab import MOST_HOSTS, PREFIX, Lab
from dougong.testing.namespaces import Place
from dougong.testing.network import Cable
from dougong.testing.process import LabError

RECORD = "lab.json"
_ME = "python -m dougong.testing"

app = typer.Typer(
    help="Hosts as namespaces of this machine (root; Linux).",
    no_args_is_help=True,
    add_completion=False,
)


class HostRecord(BaseModel):
    """How a host is found again."""

    model_config = ConfigDict(frozen=True)
    name: str
    pid: int
    port: str
    addresses: list[str]


class LabRecord(BaseModel):
    """What a lab that outlives its maker leaves in its folder, readable by its owner alone."""

    model_config = ConfigDict(frozen=True)
    keeper: int
    switch: int
    env: dict[str, str]
    hosts: list[HostRecord]


LabName = Annotated[str | None, typer.Option("--lab", help="which lab, where there are several")]


@app.command()
def up(
    num_hosts: Annotated[int, typer.Argument(min=1, max=MOST_HOSTS, help="how many hosts")] = 3,
    ray: Annotated[bool, typer.Option(help="start Ray on all of them, node0 the head")] = False,
) -> None:
    """Make a lab; print how to enter its hosts and how to end it."""
    lab = Lab(num_hosts, alone=True)
    try:
        write_record(lab)
        cluster = lab.start_ray() if ray else None
    except BaseException:
        lab.close()
        raise
    print(f"lab {name_of(lab.folder)}: {', '.join(f'{h.name} {h.address}' for h in lab.hosts)}")
    print(f"a folder that all of them see: {lab.shared}")
    if cluster is not None:
        print(f"Ray: --address {cluster.address}")
    print(f"enter a host:  {_ME} exec node0 -- bash")
    print(f"end the lab:   {_ME} down")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    host: Annotated[str, typer.Argument(help="node0, node1, ...")],
    words: Annotated[list[str], typer.Argument(help="the command and its arguments, after --")],
    lab: LabName = None,
) -> None:
    """Run a command in a host, with this terminal; ends with its exit status."""
    folder = find_folder(lab)
    hosts = {one.name: one for one in open_hosts(folder)}
    if host not in hosts:
        raise LabError(f"lab {name_of(folder)} has no host {host}, only {', '.join(hosts)}")
    command = hosts[host].entering(words)
    sys.stdout.flush()
    os.execvpe(command[0], command, hosts[host].environment({"TERM": "xterm"}))


@app.command()
def down(lab: LabName = None) -> None:
    """End a lab with all that runs in it, and remove its folder."""
    folder = find_folder(lab)
    keeper = read_record(folder).keeper
    os.kill(keeper, signal.SIGTERM)
    until = time.monotonic() + DEADLINES.kill_s
    while process_exists(keeper):
        if time.monotonic() > until:
            raise LabError(f"lab {name_of(folder)}: not ended within {DEADLINES.kill_s:g} s")
        time.sleep(DEADLINES.exit_poll_every_s)


@app.command("list")
def show_labs() -> None:
    """The labs that were made by hand and are up."""
    for folder in folders():
        names = ", ".join(f"{host.name} {host.addresses[0]}" for host in read_record(folder).hosts)
        print(f"{name_of(folder)}: {names}; {folder}")


def main() -> None:
    """The command line; an error of ours is one line."""
    try:
        app(prog_name=_ME)
    except DougongError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def name_of(folder: Path) -> str:
    """What stands for a lab on the command line."""
    return folder.name.removeprefix(PREFIX)


def write_record(lab: Lab) -> None:
    """So that later commands find it."""
    hosts = [
        HostRecord(name=h.name, pid=h.place.pid, port=h.cable.port, addresses=h.addresses)
        for h in lab.hosts
    ]
    record = LabRecord(keeper=lab.keeper_pid, switch=lab.switch.pid, env=lab.env, hosts=hosts)
    (lab.folder / RECORD).write_text(record.model_dump_json())  # its folder is the owner's alone


def read_record(folder: Path) -> LabRecord:
    """LabError when it is damaged."""
    try:
        return LabRecord.model_validate_json((folder / RECORD).read_text())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise LabError(f"{folder / RECORD}: cannot be read: {error}") from error


def open_hosts(folder: Path) -> list[Host]:
    """The hosts of a lab that another process made."""
    record = read_record(folder)
    switch = Place(record.switch)
    return [
        Host(Cable(switch, h.port, Place(h.pid)), folder / h.name, h.addresses, record.env)
        for h in record.hosts
    ]


def folders() -> list[Path]:
    """Of the labs that are up."""
    records = sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{RECORD}"))
    return [record.parent for record in records if _is_up(record.parent)]


def _is_up(folder: Path) -> bool:
    """Its keeper has the folder's name on its command line; another process of that number has
    not."""
    try:
        words = Path(f"/proc/{read_record(folder).keeper}/cmdline").read_bytes()
    except (OSError, LabError):
        return False
    return str(folder).encode() in words.split(b"\0")


def find_folder(name: str | None) -> Path:
    """The lab of that name, or the only one. LabError when that is no answer."""
    found = {name_of(folder): folder for folder in folders()}
    if name is not None and name not in found:
        raise LabError(f"no lab {name} is up; those that are: {', '.join(found) or 'none'}")
    if name is None and len(found) != 1:
        answer = f"several labs are up; add --lab NAME: {', '.join(found)}"
        raise LabError(answer if found else f"no lab is up; `{_ME} up 3` makes one")
    return found[name] if name is not None else next(iter(found.values()))
