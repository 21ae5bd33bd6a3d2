"""The ports of a run where its job names none."""

from __future__ import annotations

from dougong.addresses import Ports, read_ports
from dougong.control.environment import default_ports
from dougong.errors import JobError
from dougong.job.schema import Job


def with_ports(job: Job) -> Job:
    """The job, with this machine's DOUGONG_PORTS where it names no ports itself."""
    ports = ports_of(job)
    return job.model_copy(update={"ports": None if ports is None else str(ports)})


def ports_of(job: Job | None) -> Ports | None:
    """Those of the job, else of this machine's DOUGONG_PORTS, which any job would listen on; None:
    the system chooses. JobError where that is no range."""
    if job is not None and job.ports is not None:
        return read_ports(job.ports)
    text = default_ports()
    try:
        return read_ports(text)
    except ValueError as error:
        raise JobError(f"DOUGONG_PORTS={text}: {error}") from None
