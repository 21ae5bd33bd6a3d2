"""The classes of failure about which `fault` may say something of its own."""

from __future__ import annotations

from typing import Literal

from dougong.job.section import Count

FailureClass = Literal[
    "crash",
    "out_of_memory",
    "exception",
    "hang",
    "node_lost",
    "partition",
    "slow",
    "device",
    "corruption",
    "storage",
    "preemption",
]
"""Those that the run may get over; what is wrong with the job itself always ends it."""

ByClass = dict[FailureClass, Count]
