"""Limits of files and connections: raised as far as the system lets us, or refused with the numbers."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from dougong.errors import LaunchError
from dougong.launcher.agent.here.open_files import (
    needed_by_worker,
    refuse_agents,
    refuse_workers,
    remarks_on_open_files,
)


@pytest.mark.parametrize(("before", "after"), [((100, 200), "200"), ((200, 200), "200"), ((64, 1 << 19), "262144")])
def test_a_limit_is_raised_as_far_as_the_hard_one(before: tuple[int, int], after: str) -> None:
    soft, hard = before
    text = (
        "import resource\n"
        "from dougong.launcher.agent.here.open_files import open_files_here, raise_open_files\n"
        f"found = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        f"hard = {hard} if found == resource.RLIM_INFINITY else min(found, {hard})\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, hard))\n"
        "raise_open_files()\n"
        "print(open_files_here(), min(hard, 1 << 18))\n"
        "raise_open_files()\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    found, expected = done.stdout.split()
    assert found == expected and (found == after or hard > 1 << 18)


def test_a_worker_that_could_not_reach_all_others_is_refused_with_the_numbers() -> None:
    assert needed_by_worker(10_000) == 40_052
    refuse_workers("node1", 10_000, 40_052)
    refuse_workers("node1", 10_000, None)
    with pytest.raises(LaunchError) as raised:
        refuse_workers("node1", 10_000, 4096)
    text = str(raised.value)
    assert text.startswith(
        "a process on node1 may have 4096 files and connections open, which is its hard limit, and a worker of a run "
        "with 10000 workers needs 40052 (4 connections to each other worker); raise it (`ulimit -Hn 80104` as root"
    )
    assert text.endswith("or lower islands.*.workers")


@pytest.mark.parametrize(
    ("num_workers", "hard", "said"),
    [
        (8, 64, ""),
        (1000, 1 << 19, "each worker has 4,052 files and connections open (4 to each other one); a process of"),
        (1000, resource.RLIM_INFINITY, "; a process of this machine may have that many"),
        (
            1000,
            1024,
            "the hard limit of this machine is 1,024, and a run with such nodes is refused: raise it",
        ),
    ],
)
def test_a_plan_says_what_a_large_run_needs(
    monkeypatch: pytest.MonkeyPatch, num_workers: int, hard: int, said: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, hard))
    found = remarks_on_open_files(num_workers)
    words = " ".join((*found.notes, *found.warnings))
    assert said in words and bool(said) == bool(words)
    assert bool(found.warnings) == (hard == 1024)


def test_so_is_a_controller_of_too_many_agents() -> None:
    refuse_agents(1250, 1450)
    with pytest.raises(LaunchError, match="the controller of 1250 agents needs 1450; raise it"):
        refuse_agents(1250, 1449)
