"""The whole examination: nodes are asked, what they say is judged, a report is made and kept."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from markupsafe import Markup

from dougong import __version__
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.ask.nodes import ExaminedNodes, NodesHere
from dougong.doctor.ask.observations import Observations, Viewpoint
from dougong.doctor.ask.observe import Tell, here, observe
from dougong.doctor.ask.ray_nodes import RayNodes
from dougong.doctor.judge import machine, network, software, speed
from dougong.doctor.record import FILE, DoctorCheck, DoctorReport, Symptom, check_of
from dougong.errors import LaunchError
from dougong.launcher.backends.local import node_here
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.launcher.backends.ray_cluster import RayBackend
from dougong.records.files import replace_file
from dougong.ui.report.templates import read_template, template_environment

CHECKS: tuple[Callable[[Observations], DoctorCheck], ...] = (
    machine.check_nodes,
    machine.check_token,
    software.check_versions,
    software.check_source,
    machine.check_environment,
    machine.check_devices,
    network.check_interfaces,
    network.check_ports,
    network.check_paths,
    machine.check_clock,
    machine.check_shared,
    machine.check_disk,
    machine.check_files,
    machine.check_shared_memory,
    machine.check_limits,
    speed.check_matmul,
    speed.check_bits,
    speed.check_memory,
    speed.check_storage,
    network.check_links,
)
"""In the order in which they are told: what a run needs, what it rests on, how quick it is."""

PAGE = "doctor.html"
_PACKAGE = "dougong.doctor"


def examine_here(request: DoctorRequest, tell: Tell) -> DoctorReport:
    """This machine alone."""
    nodes = NodesHere([node_here])
    return _examined(nodes, request, None, tell)


def examine_cluster(request: DoctorRequest, choice: RayChoice, tell: Tell) -> DoctorReport:
    """All nodes of a Ray cluster. One that cannot be joined is what was found."""
    begun = time.monotonic()
    backend = RayBackend(choice, request.deadlines)
    tell(f"joining the Ray cluster {choice.address}")
    try:
        host = backend.open()
        return _examined(RayNodes(backend, request.deadlines), request, host, tell, choice)
    except LaunchError as error:
        return report_of_none(request, choice.address or "", str(error), begun)
    finally:
        backend.close()


def report_of_none(request: DoctorRequest, where: str, words: str, begun: float) -> DoctorReport:
    """Of a cluster whose nodes could not be asked. `begun`: monotonic seconds."""
    head, _, remedy = words.partition("; ")
    remedy = remedy or "mend that, then examine again"
    check = check_of("cluster", (Symptom(words=head, remedy=remedy),))
    return _report(request, where, (), (check,), begun)


def _examined(
    nodes: ExaminedNodes,
    request: DoctorRequest,
    towards: str | None,
    tell: Tell,
    choice: RayChoice | None = None,
) -> DoctorReport:
    begun = time.monotonic()
    host = socket.gethostname()
    place = Viewpoint(towards, secrets.token_hex(32), here(request, host))
    try:
        seen = observe(nodes, request, place, towards is None, tell)
    finally:
        nodes.close()
    titles = tuple(node.title for node in seen.nodes.values())
    where = host if choice is None else f"the Ray cluster {choice.address}"
    return _report(request, where, titles, judge(seen), begun)


def judge(seen: Observations) -> tuple[DoctorCheck, ...]:
    """All checks."""
    return tuple(check(seen) for check in CHECKS)


def _report(
    request: DoctorRequest,
    where: str,
    nodes: tuple[str, ...],
    checks: tuple[DoctorCheck, ...],
    begun: float,
) -> DoctorReport:
    return DoctorReport(
        where=where,
        job="" if request.job is None else request.job.job,
        quick=request.quick,
        nodes=nodes,
        wall=datetime.now(timezone.utc).isoformat(),
        seconds=round(time.monotonic() - begun, 2),
        checks=checks,
    )


def render(found: DoctorReport) -> str:
    """The report as one page that needs nothing beside itself."""
    styles = (("dougong.ui.report", "page.css"), ("dougong.conform.kit", "page.css"))
    style = "\n".join(read_template(package, name) for package, name in styles)
    page = template_environment(_PACKAGE).get_template("page.html.j2")
    return page.render(found=found, style=Markup(style), version=__version__)


def keep(found: DoctorReport, folder: Path) -> Path:
    """Write page and JSON, each in one rename; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FILE, f"{found.model_dump_json(indent=1)}\n")
    page = folder / PAGE
    replace_file(page, render(found))
    return page
