"""The first tensor in which two checkpoints differ, over any two layouts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import CheckpointError
from dougong.tools.checkpoint_diff import diff_checkpoints as diff
from dougong.tools.difference import Difference
from tests.checkpoint.saving import make_not_finite, save, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("gpt_oss", num_hidden_layers=2)


def changed(model: Any, name: str, element: int, delta: float) -> Any:
    """The same model with one number different."""
    other = tiny_model("gpt_oss", num_hidden_layers=2)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.get_parameter(name).reshape(-1)[element] += delta
    return other


@pytest.mark.parametrize(("here", "there"), [(1, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("trust_digests", [True, False])
def test_layouts_do_not_matter(here: int, there: int, trust_digests: bool, model: Any, tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", model, here), save(tmp_path / "b", model, there, generation=4)
    comparison = diff(a, b, trust_digests)
    assert comparison.equal
    assert comparison.first is None
    assert "equal, bit by bit" in str(comparison)


@pytest.mark.parametrize("trust_digests", [True, False])
def test_one_number_is_found_in_one_expert(trust_digests: bool, model: Any, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.experts.down_proj"
    row = model.get_parameter(name)[0].numel()
    a = save(tmp_path / "a", model, 2)
    b = save(tmp_path / "b", changed(model, name, 3 * row + 7, 0.5), 3)
    (difference,) = diff(a, b, trust_digests).differences
    assert (difference.step, difference.name) == (20, f"{name}[3]")
    assert (difference.num_different, difference.num_elements) == (1, row)
    assert difference.largest == pytest.approx(0.5, abs=1e-6)
    assert str(difference).startswith(f"step 20: {name}[3]: 1 of {row} elements differ, by at most 0.5")


def test_layers_come_in_order_and_the_model_before_the_optimizer(tmp_path: Path) -> None:
    a = save(tmp_path / "a", tiny_model("qwen3_moe", num_hidden_layers=11), 1)
    b = save(tmp_path / "b", tiny_model("qwen3_moe", seed=1, num_hidden_layers=11), 2, seed=1)
    names = [d.name for d in diff(a, b).differences]
    layers = [int(n.split(".")[2]) for n in names if n.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert {2, 10} <= set(layers)
    groups = [n.partition(" of ")[0] if " of " in n else "model" for n in names]
    assert list(dict.fromkeys(groups)) == ["model", "exp_avg", "exp_avg_sq"]


def test_minus_zero_is_not_zero_and_nan_is_itself(model: Any, tmp_path: Path) -> None:
    def with_first(value: float) -> Any:
        other = changed(model, "model.norm.weight", 0, 0.0)
        with torch.no_grad():
            other.model.norm.weight[0] = value
        return other

    zero, minus = save(tmp_path / "a", with_first(0.0)), save(tmp_path / "b", with_first(-0.0))
    assert diff(zero, minus).differences == (Difference(20, "model.norm.weight", 1, 64, 0.0),)
    nan, again = save(tmp_path / "c", with_first(0.0)), save(tmp_path / "d", with_first(0.0))
    for directory in (nan, again):
        make_not_finite(directory, "model.norm.weight")
    assert diff(nan, again).equal
    assert diff(zero, nan).differences == (Difference(20, "model.norm.weight", 1, 64, None),)


def test_a_damaged_copy_differs_and_is_called_damaged(model: Any, tmp_path: Path) -> None:
    a = save(tmp_path / "a", model)
    b = Path(shutil.copytree(a, tmp_path / "b"))
    path = b / "optimizer/rank00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (difference,) = diff(a, b).differences
    assert difference.num_different == 1
    assert f"not what its manifest says: {b}" in str(difference)


def test_tensors_missing_or_of_another_shape_are_differences(model: Any, tmp_path: Path) -> None:
    a = save(tmp_path / "a", model)
    b = save(tmp_path / "b", tiny_model("gpt_oss", num_hidden_layers=1))
    found = {d.name: d.note for d in diff(a, b).differences}
    assert found["model.layers.1.input_layernorm.weight"] == f"only in {a}"
    wider = save(tmp_path / "c", tiny_model("gpt_oss", num_hidden_layers=2, vocab_size=260))
    found = {d.name: d.note for d in diff(a, wider).differences}
    assert found["lm_head.weight"] == "F32 (256, 64) and F32 (260, 64)"


def test_checkpoints_of_two_steps_differ(model: Any, tmp_path: Path) -> None:
    comparison = diff(save(tmp_path, model), save(tmp_path, model, step=40))
    assert str(comparison.first) == "step 20: step: 20 and 40"


def test_a_pipe_in_a_files_place_is_told_and_holds_up_nobody(model: Any, tmp_path: Path) -> None:
    here = save(tmp_path / "here", model)
    there = Path(shutil.copytree(here, tmp_path / "there"))
    file = there / "model/model-rank00000.safetensors"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match="is no file"):
        diff(here, there)
