"""Two folders of the same model: in another form, order or dtype they are the same, and what differs is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.models.stored.folder import SINGLE, stored_tensors
from dougong.models.stored.values import read_all
from dougong.tools.experts.against import compare
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import save, tiny_model
from tests.folders import change_config
from tests.quantised_folders import BLOCK, to_fp8, to_mxfp4, unfold

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
    assert str(found).startswith(f"equal in {str(dtype).removeprefix('torch.')}: ")
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


def rounded_to(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


@pytest.fixture(scope="module")
def eights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in FP8 by blocks."""
    place = changed(folder, tmp_path_factory.mktemp("eights") / "fp8", rounded_to(torch.bfloat16))
    to_fp8(place)
    return place


def test_a_quantised_folder_is_compared_by_its_values(folder: Path, eights: Path, tmp_path: Path) -> None:
    shutil.copytree(eights, tmp_path / "plain")
    unfold(tmp_path / "plain", BLOCK)
    half = changed(tmp_path / "plain", tmp_path / "half", rounded_to(torch.bfloat16))
    for a, b in ((eights, half), (half, eights)):
        assert str(compare(a, b)).startswith("equal in bfloat16: "), str(compare(a, b))
    assert str(compare(eights, tmp_path / "plain")).startswith("equal in float32: ")
    assert "quantised tensors by the values that they read as" in compare(eights, half).compared
    assert compare(eights, changed(half, tmp_path / "fused", fused)).equal
    differences = said(eights, folder)
    site = "model.layers.*.mlp.experts (* is 0-1)"
    assert differences[0] == f"{site}: experts 0-7 of A are none of B's (of expert 0 differ: down, gate, up)"
    (query,) = [words for words in differences if "q_proj" in words]
    assert 0 < float(query.rpartition(" ")[2]) < 0.3, "a gap of values, not of bytes"


def test_mxfp4_is_compared_by_its_values(tmp_path: Path) -> None:
    tiny_model("gpt_oss", num_hidden_layers=1).save_pretrained(tmp_path / "fours")
    to_mxfp4(tmp_path / "fours")
    shutil.copytree(tmp_path / "fours", tmp_path / "plain")
    read = {name: read_all(tensor) for name, tensor in stored_tensors(tmp_path / "fours").items()}
    save_file({name: tensor.contiguous() for name, tensor in read.items()}, tmp_path / "plain" / SINGLE)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "plain" / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert str(compare(tmp_path / "fours", tmp_path / "plain")).startswith("equal in float32: ")

    def change(tensors: Tensors) -> None:
        tensors[f"{SITE}.down_proj_scales"][5] += 1

    other = changed(tmp_path / "fours", tmp_path / "other", change)
    assert said(other, tmp_path / "plain") == [f"{SITE}: expert 5 of A is none of B's (of expert 5 differ: down)"]


def test_values_without_their_scales_are_refused_in_words(folder: Path, eights: Path, tmp_path: Path) -> None:
    def unscaled(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if not name.endswith("_scale_inv")}

    bare = changed(eights, tmp_path / "bare", unscaled)
    change_config(bare, quantization_config=None)
    differences = said(bare, folder)
    assert differences[0].startswith(
        "model.layers.*.mlp.experts (* is 0-1): down of an expert is F8_E4M3 and F32, which cannot be compared; "
    ), differences[0]
    other = changed(bare, tmp_path / "other", lambda tensors: flip(tensors, "model.layers.0.self_attn.q_proj.weight"))
    assert said(bare, other) == ["model.layers.0.self_attn.q_proj.weight: 1 of 4096 elements differ"]


def flip(tensors: Tensors, name: str) -> None:
    tensors[name].view(torch.uint8)[0, 0] ^= 1


def test_experts_come_first_and_layers_that_are_alike_are_one_line(tmp_path: Path) -> None:
    tiny_model("qwen3_moe", num_hidden_layers=24).save_pretrained(tmp_path / "a")
    order = [0, 2, 5, 3, 4, 1, 6, 7]

    def change(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for name in tensors:
            if name.endswith("mlp.gate.weight"):
                found[name] = tensors[name][order]
            if ".experts." in name:
                site, _, rest = name.partition(".experts.")
                number, _, part = rest.partition(".")
                found[name] = tensors[f"{site}.experts.{order[int(number)]}.{part}"]
        return found

    other = changed(tmp_path / "a", tmp_path / "b", change)
    first, second = said(tmp_path / "a", other)
    assert first == (
        "model.layers.*.mlp.experts (* is 0-23): experts are in another order: A's 1 is B's 5, 2 is B's 1, 5 is B's 2"
    )
    assert second.startswith("model.layers.*.mlp.gate.weight (* is 0-23): 4608 of 12288 elements differ, by at most ")


def test_a_layer_that_is_lost_is_named_and_others_are_compared_with_their_own(tmp_path: Path) -> None:
    tiny_model("qwen3_moe", num_hidden_layers=3).save_pretrained(tmp_path / "a")

    def drop(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.experts." not in name}

    other = changed(tmp_path / "a", tmp_path / "b", drop)
    for a, b in ((tmp_path / "a", other), (other, tmp_path / "a")):
        assert said(a, b) == [f"model.layers.1.mlp.experts: its experts are only in {tmp_path / 'a'}"]


def test_what_is_there_twice_is_a_difference(folder: Path, tmp_path: Path) -> None:
    def both(tensors: Tensors) -> Tensors:
        return {**tensors, f"{SITE}.down_proj": torch.ones(8, 64, 32)}

    other = changed(folder, tmp_path / "both", both)
    assert said(folder, other)[0] == (
        f"{SITE}: has down_proj and down_proj.weight, each of which is an expert's down (in {other})"
    )


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
