"""Initial values: seeded by tensor name, whatever else is built, and distributed as the family's own."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from dougong.job.schema import Model
from dougong.models.build import build_on_meta, initial_expert, materialise
from dougong.models.configs.load import load_config
from dougong.models.initial import NamedInit
from dougong.models.sites import find_sites
from dougong.ops import counter_rng
from tests.families import FAMILIES, config_values, tiny_config
from tests.jobs import VOCAB
from torch import Tensor, nn

CPU = torch.device("cpu")


@functools.cache
def initial_values(family: str, seed: int = 7, layers: int | None = None) -> dict[str, Tensor]:
    """Every dense tensor and every expert's, by name."""
    changes = {} if layers is None else {"num_hidden_layers": layers}
    model: Any = build_on_meta(load_config(Model(family=family, config=config_values(family, **changes)), VOCAB))
    materialise(model, CPU, seed)
    values = {n: t for n, t in model.state_dict().items() if not t.is_meta}
    for site in find_sites(model):
        for expert in range(max(site.num_rows.values())):
            tensors = initial_expert(model, site, expert, seed, CPU)
            values |= {site.tensor_name(p, expert): t for p, t in tensors.items()}
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_values_do_not_depend_on_what_was_built_before_or_on_torchs_generator(family: str) -> None:
    model: Any = build_on_meta(load_config(Model(family=family, config=config_values(family)), VOCAB))
    torch.manual_seed(99)
    site = find_sites(model)[-1]
    alone = initial_expert(model, site, 5, 7, CPU)  # before any dense tensor, and no other expert
    torch.randn(17)
    materialise(model, CPU, 7)
    whole = initial_values(family)
    for parameter, value in alone.items():
        assert torch.equal(value, whole[site.tensor_name(parameter, 5)]), parameter
    for name, value in model.state_dict().items():
        assert value.is_meta or torch.equal(value, whole[name]), name


def test_what_will_be_overwritten_is_not_drawn_and_all_else_is_as_it_was() -> None:
    model: Any = build_on_meta(load_config(Model(family="qwen3_moe", config=config_values("qwen3_moe")), VOCAB))
    materialise(model, CPU, 7, unfilled=["lm_head.weight"])
    whole = initial_values("qwen3_moe")
    assert not model.lm_head.weight.any() and whole["lm_head.weight"].any()
    for name, value in model.state_dict().items():
        assert value.is_meta or name == "lm_head.weight" or torch.equal(value, whole[name]), name


def test_a_tensor_keeps_its_values_in_a_deeper_model() -> None:
    shallow, deep = initial_values("qwen3_moe", layers=1), initial_values("qwen3_moe")
    assert shallow.keys() < deep.keys()
    assert all(torch.equal(value, deep[name]) for name, value in shallow.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_random_tensors_are_alike_and_another_seed_changes_them_all(family: str) -> None:
    values, other = initial_values(family), initial_values(family, seed=8)
    drawn = {n: t for n, t in values.items() if not torch.equal(t, other[n])}
    matrices = {n for n, t in values.items() if n.endswith((".weight", "]")) and t.dim() >= 2}
    assert matrices <= drawn.keys() and len(matrices) > 50
    assert len({tuple(t.flatten()[:8].tolist()) for t in drawn.values()}) == len(drawn)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_distributed_as_the_familys_own(family: str) -> None:
    """Mean and standard deviation of a tensor of n values vary by about std / sqrt(n): eight times that is allowed.

    A tensor that the family sets to a constant must be that constant.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = AutoModelForCausalLM.from_config(tiny_config(family)).state_dict()
    stacked = dict(initial_values(family))
    for name in [n for n in stacked if n.endswith("[0]")]:
        rows = [stacked[n] for n in (f"{name[:-3]}[{e}]" for e in range(12)) if n in stacked]
        stacked[name[:-3]] = torch.stack(rows)
    for name, theirs in own.items():
        ours = stacked[name]
        assert ours.shape == theirs.shape, name
        spread = float(theirs.float().std()) if theirs.numel() > 1 else 0.0
        if spread == 0.0 or not theirs.is_floating_point():
            assert torch.equal(ours, theirs), name
        elif theirs.numel() >= 32:
            room = 8 * spread / theirs.numel() ** 0.5
            assert abs(float(ours.mean() - theirs.mean())) < room, name
            assert abs(float(ours.std()) - spread) < room, name


def test_fills_are_our_streams_under_torchs_own_calls() -> None:
    named, scratch = torch.empty(3, 40), torch.empty(40)
    with NamedInit(5, {named: "model.layer.weight"}):
        nn.init.normal_(named, mean=1.0, std=0.5)
        first = nn.init.uniform_(scratch, 2.0, 4.0).clone()
        second = nn.init.uniform_(scratch, 2.0, 4.0).clone()
    assert torch.equal(
        named, torch.from_numpy(counter_rng.normal((3, 40), 5, "model.layer.weight")).mul_(0.5).add_(1.0)
    )
    assert torch.equal(first, torch.from_numpy(counter_rng.uniform((40,), 5, "unnamed/1")).mul_(2.0).add_(2.0))
    assert not torch.equal(first, second) and float(second.min()) >= 2 and float(second.max()) < 4


def test_tensors_on_meta_are_left_alone() -> None:
    scratch = torch.empty(4)
    with NamedInit(5, {}):
        nn.init.normal_(torch.empty(4, device="meta"))
        nn.init.uniform_(scratch)  # still the first scratch fill: the one on meta did not count
    assert torch.equal(scratch, torch.from_numpy(counter_rng.uniform((4,), 5, "unnamed/1")))
