"""The optimizers that a job file can name."""

from __future__ import annotations

from dougong.job.optimizers.registry import CHOICE, DECLARATIONS, declaration_of
from dougong.job.schema import Job
from tests.job.test_schema import LEAST


def test_a_job_that_names_none_means_the_first() -> None:
    job = Job.model_validate(LEAST)
    assert declaration_of(job.optimizer) is DECLARATIONS[0]
    assert type(job.optimizer) is DECLARATIONS[0].config


def test_every_declaration_is_a_choice_by_its_own_name() -> None:
    assert list(CHOICE.options) == [declaration.name for declaration in DECLARATIONS]
    for declaration in DECLARATIONS:
        config = declaration.config()
        assert config.name == declaration.name
        assert declaration_of(config) is declaration
