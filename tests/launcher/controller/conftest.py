"""A manager of checkpoints whose work comes to an inbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.schema import Job
from dougong.launcher.controller.checkpoints import CheckpointManager
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from tests.launcher.toyrun import toy_job

JOB = Job.model_validate(toy_job())


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def checkpoints(tmp_path: Path, inbox: Inbox) -> CheckpointManager:
    return CheckpointManager(tmp_path, JOB, Background("test-commit", inbox))
