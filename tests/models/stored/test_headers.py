"""The headers of safetensors files; what is wrong with a file is told in test_folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.errors import ModelError
from dougong.models.stored.headers import file_tensors
from safetensors.torch import save_file


def test_tensors_of_eight_bits_are_listed_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2, 3).to(torch.float8_e4m3fn), "n": torch.arange(2)}, path)
    found = {tensor.name: tensor for tensor in file_tensors(path)}
    assert (found["w"].dtype, found["w"].shape, found["w"].num_bytes) == ("F8_E4M3", (2, 3), 6)
    assert found["n"].dtype == "I64" and not found["w"].is_floating


def test_a_size_that_is_not_eight_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2, 3).to(torch.float8_e4m3fn)}, path)
    path.write_bytes(path.read_bytes().replace(b"[2,3]", b"[2,4]"))
    with pytest.raises(ModelError, match=r"w of F8_E4M3 \[2, 4\] is said to have 6 bytes"):
        file_tensors(path)


@pytest.mark.parametrize(("old", "new"), [(b'"F8_E4M3"', b"[0, 0, 0]"), (b"[2,3]", b'"2,3"')])
def test_a_header_of_other_kinds_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2, 3).to(torch.float8_e4m3fn)}, path)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ModelError, match="is not a safetensors file"):
        file_tensors(path)
