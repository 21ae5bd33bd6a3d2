"""Which Ray a run goes over: by `--address`, by RAY_ADDRESS, where it was before, or one of its
own. Nobody is asked yet; a wrong address is told here only as far as its words tell it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.addresses import is_address, is_loopback, read_address, show_address
from dougong.control.environment import is_submitted_to_ray, named_ray_address
from dougong.errors import LaunchError, PlaceError
from dougong.launcher.backends.ray_processes import LocalNode, local_nodes
from dougong.launcher.backends.submission import submission

AUTO, LOCAL = "auto", "local"
_HEAD_PORT, _DASHBOARD_PORT, _CLIENT = 6379, 8265, "ray"


@dataclass(frozen=True)
class RayChoice:
    """`address`: HOST:PORT of a cluster's head, None for a Ray of the run's own. `origin`: the
    words by which it was chosen, for errors; `note`: what a person is told who has not typed it.
    `is_typed`: he has, and knows of no other way."""

    address: str | None = None
    origin: str = ""
    note: str = ""
    is_typed: bool = True

    @property
    def or_own(self) -> str:
        """The way out of somebody who has not asked for a cluster, as the end of a sentence."""
        return "" if self.is_typed else _OR_OWN


OWN_RAY = RayChoice()
_OR_OWN = f", or `--address {LOCAL}` for a Ray of the run's own"


@dataclass(frozen=True)
class Surroundings:
    """What can be known here without a question. `named`: RAY_ADDRESS; `is_job`: within a job that
    was submitted to Ray; `nodes`: finds the Ray nodes of this machine; `run`: the run's directory;
    `before`: the address over which it went last, empty for a new run, or one of its own Ray."""

    named: str = ""
    is_job: bool = False
    nodes: Callable[[], Sequence[LocalNode]] = local_nodes
    run: Path | None = None
    before: str = ""


def surroundings(run: Path | None = None, before: str = "") -> Surroundings:
    """Those of this process."""
    return Surroundings(named_ray_address(), is_submitted_to_ray(), run=run, before=before)


def choose_ray(asked: str | None, around: Surroundings) -> RayChoice:
    """By `asked`, which is --address, before all else. LaunchError in a sentence."""
    if asked is None:
        return _choose_named(around)
    if asked == LOCAL:
        differs = around.named not in ("", LOCAL)
        return RayChoice(note=_instead("a Ray of the run's own", around.named) if differs else "")
    if asked == AUTO:
        return _choose_auto(around)
    origin = f"--address {asked}"
    address = _head_at(asked, origin, around)
    differs = around.named not in ("", address, asked)
    note = _instead(f"the Ray cluster at {address}", around.named) if differs else ""
    return RayChoice(address, origin, note)


def joining(address: str) -> RayChoice:
    """The choice of somebody who has typed this address."""
    return RayChoice(address, f"--address {address}")


def _choose_named(around: Surroundings) -> RayChoice:
    if around.named == "" and around.before:
        return _as_before(around.before)
    if around.named in ("", LOCAL):
        return OWN_RAY
    origin = f"RAY_ADDRESS={around.named}"
    try:
        is_auto = around.named == AUTO
        address = _head_here(origin, around) if is_auto else _head_at(around.named, origin, around)
    except LaunchError as error:
        raise type(error)(f"{error}{_OR_OWN}") from error
    return RayChoice(address, origin, _joined(address, around), is_typed=False)


def _as_before(address: str) -> RayChoice:
    """A run that goes on does so where its nodes are: on this machine alone it might not fit, or be
    there without a word."""
    origin = f"the run's record names the Ray cluster {address}"
    note = (
        f"joins the Ray cluster {address} as before (`--address {LOCAL}`: a Ray of the run's own)"
    )
    return RayChoice(address, origin, note, is_typed=False)


def _choose_auto(around: Surroundings) -> RayChoice:
    """As Ray does: what RAY_ADDRESS names goes before what runs here."""
    if not is_address(around.named):
        address = _head_here("--address auto", around)
        return RayChoice(address, f"--address auto ({address})", f"joins the Ray cluster {address}")
    origin = f"--address auto (RAY_ADDRESS={around.named})"
    address = _head_at(around.named, origin, around)
    return RayChoice(address, origin, _joined(address, around))


def _joined(address: str, around: Surroundings) -> str:
    if around.is_job:
        return f"joins the Ray cluster {address}, to which this job was submitted"
    return (
        f"joins the Ray cluster {address}, which RAY_ADDRESS names (`--address {LOCAL}`: a Ray of "
        "the run's own)"
    )


def _instead(chosen: str, named: str) -> str:
    """What is told where somebody asks for other than his environment names."""
    return f"takes {chosen}, as --address says, not RAY_ADDRESS={named}"


def _head_at(address: str, origin: str, around: Surroundings) -> str:
    """The address as every node of the cluster understands it. PlaceError where it is none."""
    scheme, has_scheme, rest = address.partition("://")
    if has_scheme:
        raise PlaceError(f"{origin}: {_about_scheme(scheme, rest, around.run)}")
    try:
        host, port = read_address(address)
    except ValueError:
        raise PlaceError(
            f"{origin}: not HOST:PORT; `ray start --head` prints it, or use `--address {AUTO}` on "
            "a node of the cluster"
        ) from None
    address = show_address(host, port)  # Ray takes an IPv6 host in brackets alone
    if not is_loopback(host):
        return address
    named = (node.head for node in _clusters_nodes(around) if read_address(node.head)[1] == port)
    return next(named, address)


def _clusters_nodes(around: Surroundings) -> list[LocalNode]:
    """The nodes of this machine that are not another run's own."""
    return [node for node in around.nodes() if not node.is_a_runs_own]


def _about_scheme(scheme: str, rest: str, run: Path | None) -> str:
    place = rest.partition("/")[0]
    host = place.rpartition(":")[0] or place
    if scheme == _CLIENT:
        dashboard = f"http://{host}:{_DASHBOARD_PORT}"
        what = "the port of Ray Client, which starts no agents"
    else:
        dashboard = f"{scheme}://{rest}"
        what = "the address of a dashboard, for `ray job`"
    return (
        f"{what}; on a node of the cluster use `--address {host}:{_HEAD_PORT}` (the address that "
        f"`ray start --head` printed), elsewhere `{submission(dashboard, run)}`"
    )


def _head_here(origin: str, around: Surroundings) -> str:
    """The head of the cluster of which this machine is a node."""
    heads = sorted({node.head for node in _clusters_nodes(around)})
    if len(heads) == 1:
        return heads[0]
    machine = socket.gethostname()
    if heads:
        choices = " or ".join(f"`--address {head}`" for head in heads)
        raise LaunchError(
            f"{origin}: nodes of several Ray clusters run on this machine ({machine}); name one "
            f"of their heads: {choices}"
        )
    raise LaunchError(
        f"{origin}: no Ray runs on this machine ({machine}); type this on a node of the cluster, "
        "or begin one by `ray start --head`, or leave --address out: then the run has a Ray of its "
        "own"
    )
