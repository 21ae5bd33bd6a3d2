"""Hosts on which runs are struck: their records lie on disks that can be taken away. `benchmarks/campaign.py` and
schedules with `--lab` train on them."""

from __future__ import annotations

import pytest
from dougong.errors import LaunchError
from dougong.tools.drill.hosts import DrillHosts

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_records_checkpoints_and_logs_lie_on_disks_of_their_own() -> None:
    with DrillHosts(num_hosts=1) as hosts:
        (host,) = hosts.lab.hosts
        job, run = hosts.prepare("first", {"job": "x"})
        assert host.check(["cat", str(job)]) == "job: x\n"
        devices = host.check(["sh", "-c", f"stat -L -c %d {run} {run}/checkpoints {run}/logs"]).split()
        assert len(set(devices)) == 3
        host.check(["touch", f"{run}/checkpoints/seen"])
        assert (hosts.run_dir("first").checkpoints / "seen").exists(), "from outside, too"
        with pytest.raises(LaunchError, match="both/0 is not there now"):
            hosts.host_of("both/0", hosts.run_dir("first"))
        assert hosts.left() == []
        hosts.heal()
