"""What the rules say of a job file."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import JobError
from dougong.job.load import load_job

TWO = "[{name: a, accelerator: cuda, workers: %d, role: %s}, {name: b, accelerator: npu, workers: %d, role: %s}]"
"""Two islands: workers and role of each."""


def refusals(path: Path, *override: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(path, override)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]
