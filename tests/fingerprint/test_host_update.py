"""The probe of an update on the host: asked of jobs that have it, and of no others."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.deepspeed.adam_build import load_adam
from dougong.fingerprint.bench import measure
from dougong.fingerprint.cache import Probing, key_of
from dougong.fingerprint.cache import measure as look
from dougong.fingerprint.host_update import host_probes
from dougong.fingerprint.record import UNSTABLE, question_of
from tests.jobs import make_job

pytestmark = pytest.mark.simulated  # DeepSpeed's library is compiled


def host_job(**changes: Any) -> Any:
    return make_job(optimizer={"device": "host"}, **changes)


def test_it_has_an_answer_and_always_the_same() -> None:
    library = load_adam(host_job())
    ((name, probe),) = host_probes(library)
    assert name == "adamw on the host float32"
    assert measure(probe) == measure(probe) not in (UNSTABLE, "none")


@pytest.mark.slow
def test_a_job_with_it_asks_more_and_has_another_class() -> None:
    prints = [look(Probing("cpu", job=job)) for job in (make_job(), host_job())]
    assert set(prints[1].probes) - set(prints[0].probes) == {"adamw on the host float32"}
    assert prints[0].question != prints[1].question and prints[0].kernel_class != prints[1].kernel_class


def test_what_a_cached_answer_depends_on() -> None:
    assert key_of(Probing("cpu", job=make_job())) != key_of(Probing("cpu", job=host_job()))
    assert question_of(("float32",), None) == question_of(("float32",), None, updates_on_host=False)
    assert question_of(("float32",), None) != question_of(("float32",), None, updates_on_host=True)
