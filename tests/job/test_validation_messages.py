"""Pydantic's findings in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.optimizers.registry import CHOICE
from dougong.job.schema import Job
from dougong.job.validation_messages import explain
from pydantic import ValidationError
from tests.job.test_schema import with_value
from tests.job.test_section import Round, Square


def told(data: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        Job.model_validate(data)
    errors = caught.value.errors(include_url=False)
    return {".".join(str(part) for part in found.path): found.text for found in explain(errors, data)}


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("steps", True, "must be a whole number (got true): steps to train"),
        ("steps", "5", "must be a whole number (got '5'); write it without quotes"),
        ("steps", -1, "must be greater than 0 (got -1): steps to train"),
        ("seed", -1, "must be at least 0 (got -1): of every random stream: weights, data, dropout"),
        ("optimizer.lr", float("inf"), "must be a finite number (got .inf): peak learning rate"),
        ("optimizer.lr", "fast", "must be a number (got 'fast'): peak learning rate"),
        ("optimizer.betas", [0.5], "must be a list of 2 values (got [0.5]): decay of the first and of the "
         "second moment's average"),
        ("optimizer.betas", [0.1, 0.2, 0.3],
         "must be a list of 2 values (got [0.1, 0.2, 0.3]): decay of the first and of the second moment's average"),
        ("optimizer.betas", 0.9, "must be a list of 2 values (got 0.9)"),
        ("optimizer.name", "sgd", "must be 'adamw' (got 'sgd')"),
        ("schedule.name", "cosin", "must be 'cosine', 'linear' or 'constant' (got 'cosin'); did you mean 'cosine'?"),
        ("schedule.name", "step", "must be 'cosine', 'linear' or 'constant' (got 'step'); use one of them"),
        ("schedule.final_fraction", 2.0,
         "must be at most 1.0 (got 2.0): the rate at the decay's end as a part of the peak (cosine and linear)"),
        ("precision", "bf16", "must be 'float32' or 'bfloat16' (got 'bf16'); did you mean 'bfloat16'?"),
        ("job", "a b", "must be letters, digits and '-', 63 at most, and begin with a letter or digit (got 'a b')"),
        ("job", "x" * 99, "must be letters, digits and '-', 63 at most, and begin with a letter or digit "
         f"(got '{'x' * 56}...)"),
        ("job", 7, "must be text (got 7): the job's name: letters, digits, '-'"),
        ("data.text", "", "must be text that is not empty (got '')"),
        ("model.config", 7, "must be a mapping of keys (got 7): keys of the family's own configuration class, "
         "those of its text part flat or in text_config; others are its defaults"),
        ("batch", None, "must be a mapping with the keys lanes, microbatches, microbatch_size (got null); "
         "remove the key to "
         "get the default"),
        ("model", None, "must be a mapping with the keys family, path, attention, config, freeze, lora (got null)"),
        ("drill", {}, "must be a list, each item a mapping with the keys at_step, after_s, kill, fault, on, for_s "
         "(got {})"),
        ("islands", [], "must not be empty (got []): groups of like devices"),
        ("data.validation", {"fraction": 1},
         "must be less than 1.0 (got 1): part of the data that is never trained on"),
    ],
)  # fmt: skip
def test_texts(path: str, value: Any, text: str) -> None:
    assert list(told(with_value(tuple(path.split(".")), value)).values()) == [text]


def test_a_mapping_by_class_names_the_class() -> None:
    found = told(with_value(("fault", "per_hour"), {"crash": -1, "crsh": 1}))
    number = "must be at least 0 (got -1): `max_restarts` of one class alone, such as `node_lost: 20`"
    assert found["fault.per_hour.crash"] == number
    assert found["fault.per_hour.crsh"].endswith("(got 'crsh'); did you mean 'crash'?")


def test_items_of_lists() -> None:
    islands = [{"name": "east", "accelerator": "cpu", "worker": 2}, {"nam": "west", "accelerator": "ascend"}, 5]
    assert told(with_value(("islands",), islands)) == {
        "islands.0.worker": "unknown key; did you mean 'workers'?",
        "islands.1.nam": "unknown key; did you mean 'name'?",
        "islands.1.accelerator": "must be 'cpu', 'cuda', 'rocm', 'npu', 'mlu', 'musa', 'gcu' or 'xpu' (got 'ascend'); "
        "did you mean 'npu'?",
        "islands.2": "must be a mapping with the keys name, accelerator, workers, spares, devices, role, threads, "
        "node, speed, emulate, memory_gb (got 5)",
    }


@pytest.mark.parametrize(
    ("section", "key", "text"),
    [
        ("optimizer", "learning_rate", "unknown key; did you mean 'lr'?"),
        ("schedule", "max_grad_norm", "unknown key; did you mean 'optimizer.clip_norm'?"),
        ("batch", "gradient_accumulation_steps", "unknown key; did you mean 'microbatches'?"),
    ],
)
def test_what_other_programs_call_a_key_is_known(section: str, key: str, text: str) -> None:
    assert told(with_value((section, key), 1)) == {f"{section}.{key}": text}


def test_a_misspelt_key_is_no_second_mistake() -> None:
    data = with_value(("modle",), {"family": "x"})
    del data["model"]
    assert told(data) == {"modle": "unknown key; did you mean 'model'?"}
    del data["modle"]
    assert told(data) == {"model": "missing; add `model: ...`, the model"}


@pytest.mark.parametrize(
    ("name", "key", "owner"), [("round", "betas", "adamw"), ("square", "radius", "round"), ("adamw", "side", "square")]
)
def test_a_key_of_another_choice_is_named_with_its_choice(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str, owner: str
) -> None:
    """As soon as there is a second optimizer, a key may be right for the one and unknown to the other."""
    monkeypatch.setitem(CHOICE.options, "round", Round)
    monkeypatch.setitem(CHOICE.options, "square", Square)
    data = with_value(("optimizer",), {"name": name, key: 1.0})
    text = f"unknown key; `{key}` belongs to `name: {owner}`: choose that, or remove the key"
    assert told(data) == {f"optimizer.{key}": text}
