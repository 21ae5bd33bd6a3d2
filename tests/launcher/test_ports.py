"""DOUGONG_PORTS counts where a job names no ports."""

from __future__ import annotations

import pytest
from dougong.addresses import Ports
from dougong.errors import JobError
from dougong.job.schema import Job
from dougong.launcher.ports import ports_of, with_ports
from tests.launcher.toyrun import toy_job


@pytest.mark.parametrize(
    ("own", "around", "meant"),
    [
        (None, "", None),
        (None, " 20000-20100 ", "20000-20100"),
        ("30000-30100", "20000-20100", "30000-30100"),
        ("30000-30100", "nonsense", "30000-30100"),
    ],
)
def test_a_jobs_own_ports_come_first(
    monkeypatch: pytest.MonkeyPatch, own: str | None, around: str, meant: str | None
) -> None:
    monkeypatch.setenv("DOUGONG_PORTS", around)
    job = Job.model_validate({**toy_job(), "ports": own})
    assert with_ports(job) == job.model_copy(update={"ports": meant})


def test_a_variable_that_is_no_range_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_PORTS", "20100-20000")
    with pytest.raises(JobError, match="^DOUGONG_PORTS=20100-20000: must begin with the lower port: 20000-20100$"):
        with_ports(Job.model_validate(toy_job()))
    with pytest.raises(JobError, match="^DOUGONG_PORTS=20100-20000: "):
        ports_of(None)


def test_without_a_job_the_variable_is_what_any_job_would_listen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOUGONG_PORTS", raising=False)
    assert ports_of(None) is None
    monkeypatch.setenv("DOUGONG_PORTS", "20000-20100")
    assert ports_of(None) == Ports(20000, 20100)
