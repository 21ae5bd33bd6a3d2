"""README's "Several machines" as it is written, on three hosts."""

from __future__ import annotations

import pytest
from tests.lab.conftest import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_a_run_over_two_hosts_from_a_worker_node(cluster: Cluster) -> None:
    done = cluster.run(cluster.hosts[1], "first")
    assert done.status == 0, done.output
    assert len(cluster.losses("first")) == 8
