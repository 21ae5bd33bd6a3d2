"""Runs that have, or had, a controller, for tests of what others do then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dougong.records.directory import RunDir
from dougong.records.lease import LEASES, Holder, newest_fence, take_lease, take_number

GONE = 1 << 30
"""A number that no process has."""


@contextmanager
def held(run: RunDir) -> Iterator[RunDir]:
    """This process is the run's controller; the directory as it writes it."""
    with take_lease(run.path) as lease:
        yield run.of_writer(lease.fence)


def left(run: RunDir, **changes: Any) -> RunDir:
    """A process that is not ours took the next lease, and renews it no more: as a rule one of this machine that is
    gone. The directory as it would write it."""
    folder = run.path / LEASES
    folder.mkdir(exist_ok=True)
    fence = newest_fence(run.path) + 1
    assert take_number(folder, Holder.here(fence).model_copy(update={"pid": GONE, **changes}))
    return run.of_writer(fence)
