"""Two folders of the same model: in another form, order or dtype they are the same, and what differs is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.models.stored.folder import SINGLE
from dougong.tools.experts.against import compare
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import save, tiny_model

SITE = "model.layers.0.mlp.experts"
Tensors = dict[str, torch.Tensor]
PARTS = ("gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tiny_model("qwen3_moe", num_hidden_layers=2).save_pretrained(place)
    return place


def changed(folder: Path, out: Path, change: Callable[[Tensors], Tensors | None]) -> Path:
    shutil.copytree(folder, out)
    tensors = load_file(out / SINGLE)
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / SINGLE)
    return out


def said(a: Path, b: Path) -> list[str]:
    return [str(difference) for difference in compare(a, b).differences]


def fused(tensors: Tensors, transposed: bool = False) -> Tensors:
    """One tensor of all experts, as transformers holds them, or as gpt-oss and Llama-4 have them on disk."""
    found = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(2):
        site = f"model.layers.{layer}.mlp.experts"
        rows = [[tensors[f"{site}.{e}.{part}.weight"] for part in PARTS] for e in range(8)]
        gate_up = torch.stack([torch.cat([gate, up]) for gate, up, _ in rows])
        down = torch.stack([down for _, _, down in rows])
        found[f"{site}.gate_up_proj"] = gate_up.mT if transposed else gate_up
        found[f"{site}.down_proj"] = down.mT if transposed else down
    return found


def permuted(tensors: Tensors) -> Tensors:
    """Experts 1, 2 and 5 of the first layer change places."""
    order = {1: 2, 2: 5, 5: 1}
    found = dict(tensors)
    for part in PARTS:
        for there, here in order.items():
            found[f"{SITE}.{there}.{part}.weight"] = tensors[f"{SITE}.{here}.{part}.weight"]
    return found


@pytest.mark.parametrize("transposed", [False, True])
def test_in_another_form_they_are_the_same(transposed: bool, folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "other", lambda tensors: fused(tensors, transposed))
    assert not said(folder, other) and not said(other, folder)
    assert str(compare(folder, other)).startswith("equal, bit by bit: ")
    assert "8 experts in each of 2 layers" in str(compare(folder, other))


def test_one_number_in_another_form_is_found(folder: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        found = fused(tensors, transposed=True)
        found[f"{SITE}.gate_up_proj"][6, 0, -1] += 1
        return found

    other = changed(folder, tmp_path / "other", change)
    assert said(folder, other) == [
        f"{SITE}: expert 6 of A is none of B's (of expert 6 differ: up)",
    ]


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_in_another_dtype_what_was_rounded_is_the_same_and_said(
    dtype: torch.dtype, word: str, folder: Path, tmp_path: Path
) -> None:
    def rounded(tensors: Tensors) -> Tensors:
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}

    other = changed(folder, tmp_path / "other", rounded)
    found = compare(folder, other)
    assert found.equal, str(found)
    assert f"F32 and {word} compared in the less exact of both" in found.compared
    assert compare(other, folder).equal
    both = changed(other, tmp_path / "both", fused)
    assert compare(folder, both).equal


def test_one_that_was_cut_off_and_not_rounded_differs(folder: Path, tmp_path: Path) -> None:
    def cut_off(tensors: Tensors) -> Tensors:
        return {n: (t.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16) for n, t in tensors.items()}

    assert not compare(folder, changed(folder, tmp_path / "cut", cut_off)).equal


def test_another_order_is_told_by_numbers(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "other", permuted)
    assert said(folder, other) == [
        f"{SITE}: experts are in another order: A's 1 is B's 5, 2 is B's 1, 5 is B's 2",
    ]
    both = changed(other, tmp_path / "both", fused)
    assert said(folder, both) == said(folder, other), "also in another form"


def test_an_expert_that_is_lost_or_another_s_copy_is_told(folder: Path, tmp_path: Path) -> None:
    def copy(tensors: Tensors) -> None:
        for part in PARTS:
            tensors[f"{SITE}.3.{part}.weight"] = tensors[f"{SITE}.0.{part}.weight"].clone()

    def drop(tensors: Tensors) -> None:
        for part in PARTS:
            del tensors[f"{SITE}.7.{part}.weight"]

    assert said(folder, changed(folder, tmp_path / "copy", copy)) == [
        f"{SITE}: expert 3 of A is none of B's (of expert 3 differ: down, gate, up)",
    ]
    lost = changed(folder, tmp_path / "lost", drop)
    assert said(folder, lost) == [f"{SITE}: expert 7 of A is none of B's"]
    assert said(lost, folder) == [f"{SITE}: expert 7 of B is none of A's"]


def test_what_is_no_expert_s_is_compared_by_name(folder: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"][1] += 0.5
        del tensors["model.layers.1.self_attn.q_norm.weight"]
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]

    assert said(folder, changed(folder, tmp_path / "other", change)) == [
        "lm_head.weight: [256, 64] and [255, 64]",
        f"model.layers.1.self_attn.q_norm.weight: only in {folder}",
        "model.norm.weight: 1 of 64 elements differ, by at most 0.5",
    ]


def test_a_checkpoint_is_compared_with_the_folder_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe", num_hidden_layers=2)
    path = save(tmp_path / "run", model, num_workers=3)
    assert compare(path, folder).equal and compare(folder, path / "model").equal
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[4, 0, 0] += 1
    other = save(tmp_path / "other", model, num_workers=2)
    assert said(other, folder) == [
        "model.layers.1.mlp.experts: expert 4 of A is none of B's (of expert 4 differ: down)",
    ]


def test_layers_of_other_names_are_paired_in_their_order(folder: Path, tmp_path: Path) -> None:
    def renamed(tensors: Tensors) -> Tensors:
        return {name.replace("model.layers", "model.language_model.layers"): t for name, t in tensors.items()}

    found = compare(folder, changed(folder, tmp_path / "other", renamed))
    assert found.differences and not any(".experts" in one.name for one in found.differences)


def test_folders_without_a_configuration_have_experts_all_the_same(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "other", fused)
    (other / "config.json").unlink()
    assert compare(folder, other).equal
    (other / "config.json").write_text(json.dumps({"text_config": {"num_experts": 8}}))
    assert compare(folder, other).equal
