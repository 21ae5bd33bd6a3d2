"""Folders that hold parameters in another form than transformers writes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from dougong.errors import ModelError
from tests.checkpoint.saving import live_tensor, tiny_model
from tests.families import FAMILIES, FURTHER
from tests.folders import Tensors, change_weights
from tests.models.stored.test_weights import opened


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_a_folder_under_the_live_names_is_read_bit_by_bit(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path, save_original_format=False)
    folder, state = opened(tmp_path), model.state_dict()
    assert folder.check() == ()
    for name in state:
        if not name.rpartition(".")[0].endswith(".experts") and name != "lm_head.weight":
            assert torch.equal(folder.read(name), state[name]), name
    experts = next(name for name in state if name.endswith("experts.down_proj"))
    for number in (0, 5, 7):
        logical = f"{experts}[{number}]"
        assert torch.equal(folder.read(logical), live_tensor(state, logical))


def one_by_one(tensors: Tensors) -> None:
    """Mixtral's experts, which transformers writes as w1, w2, w3 of `block_sparse_moe`, under the module names of
    today's class, which it reads too."""
    for name in list(tensors):
        match = re.fullmatch(r"(.*)\.block_sparse_moe\.experts\.(\d+)\.(w\d)\.weight", name)
        if match:
            tensors[f"{match[1]}.mlp.experts.{match[2]}.{match[3]}.weight"] = tensors.pop(name)


def test_experts_one_by_one_under_other_names_are_read_by_their_numbers(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    model.save_pretrained(tmp_path)
    change_weights(tmp_path, one_by_one)
    folder, state = opened(tmp_path), model.state_dict()
    assert folder.check() == ()
    for number in range(8):
        for kind in ("gate_up_proj", "down_proj"):
            logical = f"model.layers.1.mlp.experts.{kind}[{number}]"
            assert torch.equal(folder.read(logical), live_tensor(state, logical))


def test_a_piece_of_a_tensor_under_another_name_is_read(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    model.save_pretrained(tmp_path, save_original_format=False)
    name = "model.layers.0.mlp.gate.weight"
    expected = model.state_dict()[name].reshape(-1)
    assert torch.equal(opened(tmp_path).read(f"{name}[5:60]"), expected[5:60])


def spoil_shape(tensors: Tensors) -> None:
    name = next(name for name in tensors if name.endswith("layers.1.mlp.experts.down_proj"))
    tensors[name] = tensors[name][:7].clone()


def test_one_that_lacks_an_expert_is_refused_by_the_name_that_is_written(tmp_path: Path) -> None:
    tiny_model("mixtral").save_pretrained(tmp_path, save_original_format=False)
    change_weights(tmp_path, spoil_shape)
    with pytest.raises(ModelError, match=r"holds no tensor .*layers\.1\..*experts\.0\.w2"):
        opened(tmp_path).check()
    tiny_model("mixtral").save_pretrained(tmp_path)
    change_weights(tmp_path, one_by_one)
    change_weights(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.experts.3.w2.weight"))
    with pytest.raises(ModelError, match=r"holds no tensor .*layers\.1\..*experts\.0\.w2"):
        opened(tmp_path).check()
