"""Reading: every layout gives the same tensors, and nothing damaged is handed out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint import reader as reader_module
from dougong.checkpoint.reader import CheckpointReader
from dougong.errors import CheckpointError, MisfitError
from tests.checkpoint.saving import make_not_finite, names_of, save, state_of, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("mixtral", num_hidden_layers=2)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "longcat_flash"])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_the_whole_state_is_read_back_from_any_layout(family: str, num_workers: int, tmp_path: Path) -> None:
    model = tiny_model(family)
    names = names_of(model)
    state = state_of(model, names)
    directory = save(tmp_path, model, num_workers)
    with CheckpointReader(directory, names) as reader:
        assert (reader.step, reader.metadata) == (20, {"seed": 1234})
        for group in ("model", "exp_avg", "exp_avg_sq"):
            assert sorted(reader.names(group)) == sorted(name for held, name in state if held == group)
        for (group, name), tensor in state.items():
            read = reader.read(group, name)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


def test_what_is_read_is_the_readers_own(model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path, model)
    with CheckpointReader(directory, names_of(model)) as reader:
        first = reader.read("model", "model.norm.weight")
        first.zero_()
        assert torch.equal(reader.read("model", "model.norm.weight"), model.model.norm.weight)


def test_one_expert_costs_its_own_bytes(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save(tmp_path, model)
    read_bytes = []
    read_into = reader_module.read_into

    def counted(fd: int, view: memoryview, offset: int) -> None:
        read_bytes.append(view.nbytes)
        read_into(fd, view, offset)

    monkeypatch.setattr(reader_module, "read_into", counted)
    with CheckpointReader(directory, names_of(model)) as reader:
        tensor = reader.read("model", "model.layers.1.mlp.experts.gate_up_proj[6]")
    assert sum(read_bytes) == tensor.numel() * 4


@pytest.mark.parametrize("group", ["model", "exp_avg_sq"])
def test_a_damaged_tensor_is_not_handed_out(group: str, model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path, model)
    names = names_of(model)
    with CheckpointReader(directory, names) as reader:
        wanted = "model.layers.0.mlp.experts.down_proj[2]"
        disk = names.pieces(wanted)[0].name if group == "model" else wanted
        file, entry = next((f, e) for f, e in reader.manifest.entries() if e.key == (group, disk, None))
    path = directory / file
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.num_bytes - 1] ^= 64
    path.write_bytes(data)
    with CheckpointReader(directory, names) as reader:
        with pytest.raises(CheckpointError, match="the file was damaged"):
            reader.read(group, wanted)
        assert reader.read(group, "model.layers.0.mlp.experts.down_proj[3]").shape == (64, 96)
    path.write_bytes(data[: entry.offset + 1])
    with CheckpointReader(directory, names) as reader, pytest.raises(CheckpointError, match=r"down_proj|w2"):
        reader.read(group, wanted)


def test_what_is_not_there_is_named(model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path, model)
    with CheckpointReader(directory, names_of(tiny_model("mixtral", num_hidden_layers=3))) as reader:
        with pytest.raises(CheckpointError, match=r"holds no model model\.layers\.2\."):
            reader.read("model", "model.layers.2.mlp.gate.weight")
        with pytest.raises(CheckpointError, match="holds no exp_avg nothing"):
            reader.read("exp_avg", "nothing")
    wider = names_of(tiny_model("mixtral", num_hidden_layers=2, vocab_size=260))
    message = r"has shape \(256, 64\), but the model has \(260, 64\)"
    # A class of its own, which no restart waits out as if storage were ill.
    with CheckpointReader(directory, wider) as reader, pytest.raises(MisfitError, match=message):
        reader.read("model", "lm_head.weight")
    with CheckpointReader(directory) as reader, pytest.raises(CheckpointError, match="needs `names`"):
        reader.read("model", "lm_head.weight")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="never committed"):
        CheckpointReader(tmp_path)


def test_files_are_closed(model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path, model)
    before = len(os.listdir("/proc/self/fd"))
    with CheckpointReader(directory, names_of(model)) as reader:
        reader.read("model", "lm_head.weight")
        assert len(os.listdir("/proc/self/fd")) > before
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("label", ["model.layers.0.mlp.experts.down_proj[2]", "exp_avg of lm_head.weight"])
def test_a_tensor_that_is_not_finite_is_not_handed_out(model: Any, tmp_path: Path, label: str) -> None:
    names, directory = names_of(model), save(tmp_path, model)
    stored = {"model.layers.0.mlp.experts.down_proj[2]": "model.layers.0.block_sparse_moe.experts.2.w2.weight"}
    make_not_finite(directory, stored.get(label, label), float("inf"))
    group, _, name = label.rpartition(" of ")
    with CheckpointReader(directory, names) as reader:
        reader.read("model", "lm_head.weight")
        with pytest.raises(CheckpointError, match="1 value that is not finite .*; use another checkpoint") as error:
            reader.read(group or "model", name)
    assert stored.get(label, label) in str(error.value)
