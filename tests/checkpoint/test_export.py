"""A plain Hugging Face folder out of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dougong.checkpoint.export import choose, export, to_bfloat16
from dougong.errors import CheckpointError
from dougong.models.library.classes import auto_class
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.checkpoint.saving import make_not_finite, save, tiny_model
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "longcat_flash", "step3p7"])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 60_000])
def test_stock_loading_gives_the_same_bits(family: str, shard_bytes: int, tmp_path: Path) -> None:
    model = tiny_model(family)
    files = export(save(tmp_path, model, num_workers=3), tmp_path / "out", shard_bytes=shard_bytes)
    names = [path.name for path in files]
    assert ("model.safetensors" in names) == (shard_bytes == 1 << 30)
    assert ("model.safetensors.index.json" in names) == (shard_bytes != 1 << 30)
    assert not [n for n in names if not n.endswith((".safetensors", ".json"))]
    loaded, info = auto_class(model.config).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "deepseek_v4"])
def test_bfloat16_rounds_as_torch_does_and_spares_what_the_family_spares(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    export(save(tmp_path, model), tmp_path / "out", "bfloat16")
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    stored = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(stored["model.embed_tokens.weight"], model.model.embed_tokens.weight.bfloat16())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(loaded.state_dict()[name].dtype)), name
    spared = [n for n, tensor in loaded.state_dict().items() if tensor.dtype == torch.float32]
    assert bool(spared) == (family != "qwen3_moe")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_rounding_is_torchs_bit_by_bit(bits: list[int]) -> None:
    data = np.array(bits, dtype="<u4")
    values = torch.from_numpy(data.view("<f4").copy())
    rounded = torch.frombuffer(to_bfloat16(data.tobytes()), dtype=torch.bfloat16)
    numbers = ~values.isnan()
    assert torch.equal(rounded.isnan(), values.isnan())
    assert torch.equal(rounded[numbers].view(torch.int16), values.bfloat16()[numbers].view(torch.int16))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("mixtral", num_hidden_layers=1)


def spoil(directory: Path) -> None:
    path = directory / "model/model-rank00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_newest_valid_checkpoint_is_chosen(model: Any, tmp_path: Path) -> None:
    for step in (20, 40, 60):
        save(tmp_path, model, step=step)
    assert choose(tmp_path).name == "step-000060"
    assert choose(tmp_path, 20).name == "step-000020"
    with pytest.raises(CheckpointError, match="no checkpoint of step 30; there are: 20, 40, 60"):
        choose(tmp_path, 30)
    spoil(tmp_path / "step-000060")
    skipped: list[Path] = []
    assert choose(tmp_path, None, lambda found: skipped.append(found.directory)).name == "step-000040"
    assert skipped == [tmp_path / "step-000060"]
    with pytest.raises(CheckpointError, match="choose another --step"):
        choose(tmp_path, 60)
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        choose(tmp_path / "missing")


def test_out_must_be_empty_and_stays_so_when_it_fails(model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path / "run", model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(CheckpointError, match="is not empty"):
        export(directory, tmp_path / "full")
    with pytest.raises(CheckpointError, match="float32, bfloat16"):
        export(directory, tmp_path / "out", "float8")
    spoil(directory)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: damaged"):
        export(directory, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"run", "full", "out"}
    shutil.rmtree(directory)
    export(save(tmp_path / "again", model), tmp_path / "out")
    assert (tmp_path / "out/config.json").is_file()


def test_what_is_not_finite_is_not_exported(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    directory = save(root, tiny_model("qwen3_moe", num_hidden_layers=1))
    make_not_finite(directory, "lm_head.weight")
    with pytest.raises(CheckpointError, match="holds no valid checkpoint"):
        choose(root)
    with pytest.raises(CheckpointError, match="lm_head.weight: finite: .*; choose another --step"):
        choose(root, 20)
    with pytest.raises(CheckpointError, match="lm_head.weight: holds 1 value that is not finite"):
        export(directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_value_that_bfloat16_cannot_hold_is_told_and_not_made_infinite(tmp_path: Path) -> None:
    directory = save(tmp_path, tiny_model("qwen3_moe", num_hidden_layers=1))
    make_not_finite(directory, "lm_head.weight", 3.4e38)
    with pytest.raises(CheckpointError, match="lm_head.weight: bfloat16 cannot hold 1 of its values.*--dtype float32"):
        export(directory, tmp_path / "out", "bfloat16")
    assert not (tmp_path / "out").exists()
    export(directory, tmp_path / "out", "float32")
    stored = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    assert float(stored.max()) == pytest.approx(3.4e38)
