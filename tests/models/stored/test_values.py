"""The values of a folder's tensors, quantised or not, whole and by their rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dougong.models.stored.folder import SINGLE, stored_tensors
from dougong.models.stored.headers import StoredTensor
from dougong.models.stored.values import read_all, read_rows
from safetensors.torch import save_file
from tests.quantised_folders import by_hand, fp8_pair
from torch import Tensor

FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def stored(folder: Path, tensors: dict[str, Tensor], block: tuple[int, int], method: str = "fp8") -> StoredTensor:
    said = {"quant_method": method, "weight_block_size": list(block)}
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "quantization_config": said}))
    save_file(tensors, folder / SINGLE)
    (found,) = stored_tensors(folder).values()
    return found


@pytest.mark.parametrize("shape", [(32, 48), (20, 30), (5, 7), (3, 20, 30)])
@pytest.mark.parametrize("scale", [torch.float32, torch.float8_e8m0fnu])
def test_blocks_are_multiplied_by_their_scales_also_those_cut_short(
    shape: tuple[int, ...], scale: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    block = (16, 24)
    values, scales = fp8_pair(torch.randn(*shape), block, scale)
    expected = by_hand(values, scales.float(), block)
    tensor = stored(tmp_path, {"w.weight": values, "w.weight_scale_inv": scales}, block)
    assert torch.equal(read_all(tensor), expected) and read_all(tensor).dtype == torch.float32
    for begin, end in ((0, 1), (2, 3), (shape[0] - 1, shape[0]), (1, shape[0])):
        assert torch.equal(read_rows(tensor, begin, end), expected[begin:end])


@pytest.mark.parametrize("scales", [torch.tensor(0.5), torch.tensor([0.5])])
def test_one_scale_may_count_for_a_whole_tensor(scales: Tensor, tmp_path: Path) -> None:
    values = torch.randn(5, 7).to(torch.float8_e4m3fn)
    tensor = stored(tmp_path, {"w.weight": values, "w.weight_scale_inv": scales}, (4, 4))
    assert torch.equal(read_all(tensor), values.float() * 0.5)
    assert torch.equal(read_rows(tensor, 3, 5), values[3:5].float() * 0.5)


def test_scales_of_bytes_are_powers_of_two(tmp_path: Path) -> None:
    values = torch.randn(2, 64).to(torch.float8_e4m3fn)
    exponents = torch.tensor([[120, 127], [130, 100]], dtype=torch.uint8)
    tensor = stored(tmp_path, {"w.weight": values, "w.weight_scale_inv": exponents}, (1, 32), "mxfp8")
    expected = by_hand(values, (exponents.float() - 127).exp2(), (1, 32))
    assert torch.equal(read_all(tensor), expected)


def unpacked(packed: Tensor) -> Tensor:
    """The low half of a byte first."""
    pairs = [[FP4[byte & 15], FP4[byte >> 4]] for byte in packed.view(torch.uint8).flatten().tolist()]
    return torch.tensor(pairs).view(*packed.shape[:-1], 2 * packed.shape[-1])


def test_four_bit_experts_have_two_values_in_a_byte(tmp_path: Path) -> None:
    packed = torch.randint(-128, 128, (6, 32), dtype=torch.int8)
    scales = torch.randn(6, 2).abs().log2().ceil().exp2()
    pair = {"w.weight": packed, "w.scale": scales.to(torch.float8_e8m0fnu)}
    tensor = stored(tmp_path, pair, (128, 128))
    assert torch.equal(read_all(tensor), by_hand(unpacked(packed), scales, (1, 32)))
    assert torch.equal(read_rows(tensor, 4, 6), read_all(tensor)[4:6])


def test_mxfp4_experts_are_read_one_by_one(tmp_path: Path) -> None:
    blocks = torch.randint(0, 256, (3, 6, 2, 16), dtype=torch.uint8)
    scales = torch.randint(110, 130, (3, 6, 2), dtype=torch.uint8)
    tensor = stored(tmp_path, {"e.w_blocks": blocks, "e.w_scales": scales}, (128, 128), "mxfp4")
    flat = unpacked(blocks.flatten(-2)) * (scales.float() - 127).exp2().repeat_interleave(32, -1)
    assert torch.equal(read_all(tensor), flat.transpose(1, 2))
    assert torch.equal(read_rows(tensor, 1, 2), flat[1:2].transpose(1, 2))


def test_plain_values_are_float32_and_integers_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.randn(4, 2).bfloat16(), "n": torch.arange(3)}, tmp_path / SINGLE)
    found = stored_tensors(tmp_path)
    assert read_all(found["a"]).dtype == torch.float32 and read_rows(found["a"], 1, 3).shape == (2, 2)
    assert torch.equal(read_all(found["n"]), torch.arange(3))
