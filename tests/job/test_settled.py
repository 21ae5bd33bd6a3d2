"""The job of a run that has begun is the same job, with what the run has kept in its place."""

from __future__ import annotations

from dougong.job.schema import Job
from dougong.job.settled import is_settled, settle
from dougong.planner.resume import identity
from tests.launcher.toyrun import toy_job

JOB = Job.model_validate(toy_job(data={"text": "stdlib", "tokenizer": "/gone/tokenizer.json"}))


def test_only_where_things_are_read_from_is_another() -> None:
    settled = settle(JOB, {"hidden_size": 8}, "a.B", None)
    assert is_settled(settled.model) and not is_settled(JOB.model)
    assert settled.data == JOB.data and settled.model.family == JOB.model.family
    assert settle(JOB, {}, "a.B", "/run/tokenizer").data.tokenizer == "/run/tokenizer"
    assert identity(settle(JOB, {}, "a.B", None)) == identity(JOB)
