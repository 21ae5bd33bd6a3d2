"""Towers that no text reaches are not trained, and nothing of them is lost."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.models.towers import FrozenParameter, freeze, is_of_training, tower_words
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import tiny_model
from tests.families import WITH_TOWERS, config_values
from tests.jobs import VOCAB, make_job, make_rig
from tests.reference import plain_step, reference_model
from torch import nn


@pytest.mark.parametrize("family", WITH_TOWERS)
def test_the_language_model_is_trained_and_its_towers_are_not(family: str) -> None:
    """transformers itself says what a text reaches: what has a gradient after its backward."""
    model = reference_model(make_job(family))
    ids = torch.arange(16).view(1, 16)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert reached == trained
    towers = [tensor for tensor in inspect_model(make_job(family).model, VOCAB).tensors if not tensor.trainable]
    assert len(towers) > 10


@pytest.mark.parametrize("family", WITH_TOWERS)
def test_the_first_loss_is_transformers_own(family: str) -> None:
    job = make_job(family)
    assert make_rig(job).run(1)[0].hex() == plain_step(job, reference_model(job))(1).hex()


@pytest.mark.parametrize(
    ("family", "is_random", "told"),
    [
        (
            "qwen3_vl_moe",
            False,
            r"\d+ tensors are not trained, .*: model\.visual\.\*; they go into checkpoints as they are",
        ),
        ("step3p7", True, r"model\.vision_model\.\*, .*; they go into checkpoints with the random values"),
        ("qwen3_moe", True, ""),
    ],
)
def test_what_is_not_trained_is_told(family: str, is_random: bool, told: str) -> None:
    model = build_on_meta(load_config(make_job(family).model, VOCAB))
    words = tower_words(model, is_random)
    assert re.search(told, words) if told else not words, words


def test_a_family_of_texts_alone_is_trained_whole() -> None:
    model = build_on_meta(load_config(Model(family="qwen3_moe", config=config_values("qwen3_moe")), VOCAB))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_experts_that_texts_do_not_call_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.vision_moe\.experts are experts of vision_moe, which texts"):
        inspect_model(Model(family="ernie4_5_vl_moe"), VOCAB)


@pytest.mark.parametrize("family", [*WITH_TOWERS, "qwen3_5_moe"])
def test_a_folder_with_towers_is_trained_from_and_keeps_them(family: str, tmp_path: Path) -> None:
    """Step-3.7's files hold queries, keys and values of its tower as one tensor."""
    changes = {"architectures": ["Qwen3_5MoeForConditionalGeneration"]} if family == "qwen3_5_moe" else {}
    stock = tiny_model(family, **changes)
    stock.save_pretrained(tmp_path)
    job = make_job(model={"path": str(tmp_path)})
    rig = make_rig(job)
    live = stock.state_dict()
    assert [name for name, value in rig.replica.dense.items() if not torch.equal(value, live[name])] == []
    before = {name: value.clone() for name, value in rig.replica.masters.items()}
    rig.run(1)
    moved = {name for name, value in rig.replica.masters.items() if not torch.equal(value, before[name])}
    assert moved and not [name for name in moved if "vis" in name]
    assert type(rig.replica.model) is type(stock)


def test_experts_that_lie_transposed_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    """As in the first releases of Qwen3-VL-MoE."""
    stock = tiny_model("qwen3_vl_moe")
    stock.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    turned = [name for name in tensors if name.endswith("experts.down_proj")]
    tensors |= {name: tensors[name].transpose(1, 2).contiguous() for name in turned}
    save_file(tensors, file, metadata={"format": "pt"})
    rig = make_rig(make_job(model={"path": str(tmp_path)}))
    loaded = type(stock).from_pretrained(tmp_path).state_dict()
    for name in turned:
        for expert, values in enumerate(loaded[name]):
            assert torch.equal(rig.replica.masters[f"{name}[{expert}]"], values), (name, expert)


def test_a_frozen_parameter_is_still_one_that_the_family_trains() -> None:
    trained, own = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2), requires_grad=False)
    for parameter in (trained, own):
        freeze(parameter)
        assert not parameter.requires_grad
    assert isinstance(copy.deepcopy(trained), FrozenParameter)
    assert is_of_training(trained) and not is_of_training(own) and not is_of_training(torch.zeros(2))
