"""What children of generation 0 answer, read and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dougong.control.messages import WorkerExited
from dougong.control.worker_messages import FingerprintFound, ModelFound, WorkerDone, WorkerRaised
from dougong.errors import DataError, WorkerError
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.launcher.agent.answers import (
    Answer,
    forms_of,
    judge_fingerprints,
    probed_by,
    read_fingerprint,
    read_model,
)
from dougong.parallel.plan import Inventory
from dougong.planner.placement import AgentSpec
from tests.launcher.toyrun import toy_job

LOG = Path("/run/logs/0/east/0.log")
INVENTORY = Inventory("toy", (), (), 16, ())


def job(**changes: Any) -> Job:
    return Job.model_validate(toy_job(**changes))


def spec(island: str, accelerator: str = "cpu", role: Any = "both") -> AgentSpec:
    return AgentSpec(island, island, role, accelerator, 1, 0, 2)


def fingerprint(bits: str) -> Fingerprint:
    return Fingerprint({"adding": bits}, "toy", {})


def raised(name: str) -> WorkerRaised:
    return WorkerRaised(name, (name,), "byte 17: not UTF-8")


def test_a_model_comes_with_its_recipe() -> None:
    model = read_model(job(), ModelFound(INVENTORY, {"digest": "d"}, None, ("a note",), ("a warning",)), LOG)
    assert (model.notes, model.warnings) == (("a note",), ("a warning",))
    assert (model.inventory, model.data, model.shapes) == (INVENTORY, {"digest": "d"}, None)
    assert model.recipe.digest


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (raised("DataError"), DataError, "^byte 17"),
        (raised("KeyError"), WorkerError, f"data: KeyError: byte 17: not UTF-8; see {LOG}"),
        (raised("os"), WorkerError, "data: os: byte 17"),
        (WorkerExited(0, "east/0", "inspect", -9), WorkerError, f"ended with status -9 and no answer; see {LOG}"),
        (WorkerDone(), WorkerError, "message of kind 'worker_done'"),
    ],
)
def test_any_other_answer_is_an_error_of_its_own_class(answer: Answer, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        read_model(job(), answer, LOG)


def test_an_error_on_another_machine_names_it() -> None:
    with pytest.raises(DataError, match="^node1: byte 17: not UTF-8$"):
        read_model(job(), raised("DataError"), LOG, "node1")
    with pytest.raises(WorkerError, match="^node1: the fingerprint of east/0's device: KeyError: byte 17"):
        read_fingerprint("east/0", raised("KeyError"), LOG, "node1")


def test_a_child_that_was_never_begun_has_no_log_to_see() -> None:
    never = WorkerExited(0, "east/0", "inspect", code=1, text="cannot prepare a worker: no room")
    with pytest.raises(WorkerError, match="data: cannot prepare a worker: no room$"):
        read_model(job(), never, LOG)


def test_a_fingerprint_is_read_back() -> None:
    sent = fingerprint("a")
    assert read_fingerprint("east/0", FingerprintFound(sent.to_json()), LOG) == sent
    with pytest.raises(WorkerError, match="the fingerprint of east/0's device"):
        read_fingerprint("east/0", raised("KeyError"), LOG)


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [
        ("cpu", {"east/0": "east/0", "east/1": "east/0"}),
        ("cuda", {"east/0": "east/0", "east/1": "east/1"}),
    ],
)
def test_workers_of_one_machine_share_a_fingerprint(accelerator: str, expected: dict[str, str]) -> None:
    assert probed_by(spec("east", accelerator)) == expected


def test_equal_devices_may_work_together() -> None:
    prints = {f"east/{i}": fingerprint("a") for i in range(2)}
    judged = judge_fingerprints(job(), prints, [spec("east")])
    assert judged.refusal is None and not judged.warnings
    assert len(set(judged.classes.values())) == 1
    assert judged.kernels["roles"]["experts"] == list(set(judged.classes.values()))


def test_different_devices_of_a_role_are_refused_or_warned_of() -> None:
    prints = {"east/0": fingerprint("a"), "east/1": fingerprint("b")}
    strict = judge_fingerprints(job(), prints, [spec("east")])
    assert strict.refusal is not None and "different bits" in strict.refusal
    bounded = judge_fingerprints(job(numerics="bounded"), prints, [spec("east")])
    assert bounded.refusal is None and len(bounded.warnings) == 2


FORMED = replace(Inventory("toy", (), (), 4, ()), attention=("flash", "sdpa", "eager"))


@pytest.mark.parametrize(
    ("attention", "experts", "recipe"),
    [
        (("sdpa", "sdpa"), ("grouped 1", "grouped 1"), ("sdpa", "grouped 1")),
        (("flash", "eager"), ("grouped 1", "grouped 2"), ("eager", "grouped 1, or grouped 2")),
    ],
)
def test_a_recipe_names_the_forms_of_all_devices_of_a_role(
    attention: tuple[str, str], experts: tuple[str, str], recipe: tuple[str, str]
) -> None:
    model = read_model(job(), ModelFound(FORMED, {}), Path("log"))
    assert (model.recipe.attention, model.recipe.experts) == ("", "")
    prints = {}
    for name, *forms in zip(("east/0", "west/0"), attention, experts, strict=True):
        prints[name] = replace(fingerprint("a"), forms=dict(zip(("attention", "experts"), forms, strict=True)))
    found = forms_of(job(), model, prints, [spec("east"), spec("west")])
    assert (found.recipe.attention, found.recipe.experts) == recipe
    assert found.recipe.digest != model.recipe.digest


def test_attention_has_the_form_of_its_own_role() -> None:
    model = read_model(job(), ModelFound(FORMED, {}), Path("log"))
    prints = {
        "east/0": replace(fingerprint("a"), forms={"attention": "sdpa", "experts": "grouped"}),
        "west/0": replace(fingerprint("a"), forms={"attention": "eager", "experts": "plain"}),
    }
    found = forms_of(job(), model, prints, [spec("east", role="attention"), spec("west", role="experts")])
    assert (found.recipe.attention, found.recipe.experts) == ("sdpa", "plain")
