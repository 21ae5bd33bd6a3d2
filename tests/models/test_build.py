"""Building a model without its experts: configurations, what is refused, values, dtypes, what never gets memory."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta, materialise
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.models.sites import find_sites
from dougong.parallel.plan import Seat, make_plan
from dougong.training.build import build_model
from dougong.training.replica import build_replica
from tests.families import FAMILIES, config_values, tiny_config
from tests.jobs import VOCAB, make_job
from torch import nn

CPU = torch.device("cpu")


def tiny(family: str, **changes: Any) -> Model:
    return Model(family=family, config=config_values(family, **changes))


def built(family: str, seed: int = 7) -> nn.Module:
    model = build_on_meta(load_config(tiny(family), VOCAB))
    materialise(model, CPU, seed)
    return model


@functools.cache
def transformers_own(family: str) -> Any:
    """The same configuration built by transformers itself."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(tiny_config(family))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(family="qwen3_mow"), "model.family: transformers knows no 'qwen3_mow'; did you mean qwen3_moe"),
        (Model(family="qwen3_moe", config={"num_expert": 4}), "does not know num_expert; did you mean num_experts?"),
        # Words of the family's sources that no code reads from the configuration.
        (Model(family="qwen3_moe", config={"experts": 4}), "qwen3_moe does not know experts"),
        (Model(family="qwen3_moe", config={"layers": 12}), "qwen3_moe does not know layers"),
        (Model(family="qwen3_moe", config={"default": 5}), "qwen3_moe does not know default"),
        (
            Model(family="qwen3_moe", config={"num_experts": 4, "num_local_experts": 8}),
            "num_experts and num_local_experts are one key of qwen3_moe",
        ),
        (Model(family="qwen3_moe", config={"num_experts": "many"}), "model.family: qwen3_moe: .*num_experts"),
        (Model(family="qwen3_moe", config={"num_attention_heads": 0}), "qwen3_moe: transformers cannot build"),
        (
            Model(family="qwen3_moe", config={"hidden_act": "swish2"}),
            "model.config.hidden_act: 'swish2' is no activation that transformers knows",
        ),
        (Model(family="t5"), "t5: transformers has no model of it that learns from texts"),
        (Model(path="/nowhere"), "model.path: /nowhere has no config.json"),
    ],
)
def test_wrong_models_are_refused_with_the_reason(model: Model, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_model(model, VOCAB)


@pytest.mark.parametrize("family", FAMILIES)
def test_buffers_have_the_values_that_transformers_gives_them(family: str) -> None:
    buffers, own = dict(built(family).named_buffers()), dict(transformers_own(family).named_buffers())
    assert buffers.keys() == own.keys()
    assert any("inv_freq" in name for name in buffers)
    for name, buffer in buffers.items():
        assert buffer.dtype == own[name].dtype and torch.equal(buffer, own[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_copy_keeps_in_float32_what_from_pretrained_does(family: str, tmp_path: Path) -> None:
    transformers_own(family).save_pretrained(tmp_path)
    loaded = type(transformers_own(family)).from_pretrained(tmp_path, dtype=torch.bfloat16)
    copy = build_on_meta(load_config(tiny(family), VOCAB), torch.bfloat16)
    materialise(copy, CPU, 7)
    assert dtypes(copy) == dtypes(loaded)
    assert {torch.bfloat16, torch.float32} <= set(dtypes(copy).values())


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {n: t.dtype for n, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_stay_on_meta_and_a_worker_holds_only_its_own(family: str, precision: str) -> None:
    job = make_job(family, precision=precision, batch={"lanes": 2})
    seats = [Seat(f"east/{i}", "east", "both", "node", f"cpu:{i}") for i in range(2)]
    plan = make_plan(2, inspect_model(job.model, VOCAB), seats)
    replica = build_replica(build_model(job, VOCAB, CPU), plan, 1)
    inside = tuple(f"{s.name}." for s in replica.sites)
    assert {n.startswith(inside) == p.is_meta for n, p in replica.model.named_parameters()} == {True}
    assert [set(of) for of in replica.experts] == [{4, 5, 6, 7}] * len(replica.sites)
    held = {n for n in replica.masters if n.startswith(inside)}
    idle = range(8, max(replica.sites[0].num_rows.values()))  # rows of experts that compute nothing
    assert held == {n for s in replica.sites for e in (4, 5, 6, 7, *idle) for _, n in s.tensors_of(e)}


def test_materialise_leaves_no_dense_tensor_without_memory_or_values() -> None:
    model = build_on_meta(load_config(tiny("deepseek_v4"), VOCAB))
    experts = {id(p) for s in find_sites(model) for p in s.module.parameters()}
    assert all(p.is_meta for p in model.parameters())
    materialise(model, CPU, 7)
    for name, parameter in model.named_parameters():
        assert parameter.is_meta == (id(parameter) in experts), name
    assert not any(b.is_meta for b in model.buffers())
