"""A cluster on one machine, for tests and by hand: hosts as namespaces of Linux, Ray on each, and
what goes wrong in networks.

    from dougong.testing import Lab

    with Lab(num_hosts=3) as lab:
        cluster = lab.start_ray()
        done = lab.hosts[1].run(["dougong", "run", "job.yaml", "--address", cluster.address])
"""

from dougong.testing.clock import LabClock
from dougong.testing.disk import Disk
from dougong.testing.faults import HostFaults
from dougong.testing.host import Host, RayCluster
from dougong.testing.lab import Lab
from dougong.testing.memory import MemoryGroup
from dougong.testing.network import Traffic
from dougong.testing.process import Done, HostProcess, LabError
from dougong.testing.processors import ProcessorGroup

__all__ = [
    "Lab",
    "Host",
    "HostProcess",
    "HostFaults",
    "Disk",
    "LabClock",
    "MemoryGroup",
    "ProcessorGroup",
    "Done",
    "RayCluster",
    "Traffic",
    "LabError",
]
