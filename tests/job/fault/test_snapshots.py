"""`fault.snapshots`: on by default, after every step and once over; 0 switches them off."""

from __future__ import annotations

from dougong.job.fault.snapshots import Snapshots
from dougong.job.schema import Fault


def test_by_default_every_step_is_kept_once_over() -> None:
    assert Fault().snapshots == Snapshots(every=1, replicas="auto", local=None)
    assert Fault().snapshots.num_replicas == Snapshots(replicas=1).num_replicas == 1
    assert Snapshots(replicas=2).num_replicas == 2
    assert Fault().snapshots.are_kept


def test_nothing_is_kept_where_there_is_no_step_to_keep() -> None:
    assert not Snapshots(every=0).are_kept
