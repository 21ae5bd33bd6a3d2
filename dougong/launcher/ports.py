"""The ports of a run where its job names none."""

from __future__ import annotations

from dougong.addresses import Ports
from dougong.control.environment import default_ports
from dougong.errors import JobError
from dougong.job.schema import Job


def with_ports(job: Job) -> Job:
    """The job, with this machine's DOUGONG_PORTS where it names no ports itself."""
    text = default_ports()
    if job.ports is not None or text is None:
        return job
    try:
        ports = Ports.read(text)
    except ValueError as error:
        raise JobError(f"DOUGONG_PORTS={text}: {error}") from None
    return job.model_copy(update={"ports": str(ports)})
