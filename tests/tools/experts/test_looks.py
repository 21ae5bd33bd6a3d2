"""What `verify` says of experts, and what it suggests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.errors import SourceError
from dougong.models.stored.folder import SINGLE
from dougong.records.directory import RunDir
from dougong.tools.experts.looks import look_against, look_at_experts
from safetensors.torch import save_file
from tests.checkpoint.saving import save, tiny_model


def upcycled(folder: Path) -> Path:
    folder.mkdir()
    rows = torch.randn(1, 3, 2).expand(4, -1, -1).contiguous()
    site = "model.layers.0.mlp.experts"
    save_file({f"{site}.gate_up_proj": rows.clone(), f"{site}.down_proj": rows}, folder / SINGLE)
    return folder


def test_copies_are_allowed_where_somebody_says_so(tmp_path: Path) -> None:
    folder = upcycled(tmp_path / "my folder")
    look = look_at_experts(folder, allow_alike=False)
    assert not look.is_good
    assert look.lines == (
        f"{folder}: 4 experts in 1 layer, but not all is well:",
        "  model.layers.0.mlp.experts: experts 0-3 are the same, bit by bit",
        "next: where it was made by copying a dense model's layers, that is as it should be: "
        f"dougong verify '{folder}' --allow-alike; else convert it again",
    )
    assert look_at_experts(folder, allow_alike=True).is_good


def test_a_run_is_its_newest_checkpoint(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe", num_hidden_layers=1)
    run = RunDir.create(tmp_path / "run")
    save(run.checkpoints, tiny_model("qwen3_moe", seed=1, num_hidden_layers=1), step=20)
    newest = save(run.checkpoints, model, step=40)
    model.save_pretrained(tmp_path / "folder")
    assert look_against(tmp_path / "folder", run.path).is_good
    assert not look_against(newest, run.checkpoints / "step-000020").is_good


def test_what_cannot_be_read_is_not_good_and_what_is_nothing_is_refused(tmp_path: Path) -> None:
    folder = upcycled(tmp_path / "folder")
    (folder / SINGLE).write_bytes(b"<html>")
    for look in (look_at_experts(folder, allow_alike=True), look_against(folder, folder)):
        assert not look.is_good and "is a web page" in look.lines[0]
    assert not look_at_experts(folder, allow_alike=True).is_read
    with pytest.raises(SourceError, match="is neither a checkpoint nor a Hugging Face folder"):
        look_against(upcycled(tmp_path / "whole"), tmp_path)
