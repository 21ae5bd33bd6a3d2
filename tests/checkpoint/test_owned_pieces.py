"""Large tensors that several workers have written between them, piece by piece: files hold them whole, whatever the
pieces; and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.export import export
from dougong.checkpoint.manifest import FORMAT, FORMAT_OF_SPANS, Manifest
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.repository import commit
from dougong.checkpoint.snapshot import StateTensor
from dougong.checkpoint.verify import VerifyResult, verify
from dougong.errors import CheckpointError, MisfitError, ModelError
from dougong.parallel.pieces import OwnedPiece
from dougong.tools.checkpoint_diff import diff_checkpoints
from safetensors.torch import load_file
from tests.checkpoint.edits import rewrite
from tests.checkpoint.saving import names_of, save, share, state_of, tiny_model, write_parts

CUT = "model.embed_tokens.weight"
"""256 x 64."""
ENDS = (4096, 8192, 16384)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("mixtral", num_hidden_layers=1)


def pieces_of(tensor: StateTensor, ends: tuple[int, ...]) -> list[StateTensor]:
    flat, found = tensor.tensor.reshape(-1), []
    for begin, end in zip((0, *ends), ends, strict=False):
        found.append(StateTensor(tensor.group, OwnedPiece(tensor.name, begin, end).name, flat[begin:end]))
    return found


def shares_of(model: Any, ends: tuple[int, ...] = ENDS) -> list[list[StateTensor]]:
    """Of three workers, each with a piece; and how often each piece was updated."""
    names = names_of(model)
    whole = share(state_of(model, names), 0, 1)
    shares = [[item for item in share(state_of(model, names), rank, 3) if item.name != CUT] for rank in range(3)]
    for item in whole:
        for number, piece in enumerate(pieces_of(item, ends) if item.name == CUT else []):
            shares[number % 3].append(piece)
            if item.group == "exp_avg":
                shares[number % 3].append(StateTensor("step", piece.name, torch.tensor(7.0)))
    return shares


def saved(folder: Path, model: Any, ends: tuple[int, ...] = ENDS) -> Path:
    return commit(folder, 20, 1, write_parts(folder, names_of(model), shares_of(model, ends)))


def test_files_hold_whole_tensors_and_every_tool_takes_them(model: Any, tmp_path: Path) -> None:
    directory, whole = saved(tmp_path / "run", model), save(tmp_path / "whole", model)
    assert verify(directory).ok
    labels = [entry.label for _, entry in Manifest.load(directory).entries() if entry.span is not None]
    assert "model.embed_tokens.weight[4096:8192]" in labels and "exp_avg of model.embed_tokens.weight[0:4096]" in labels
    (file,) = (directory / "model").glob("dense-*.safetensors")
    assert torch.equal(load_file(file)[CUT], model.get_parameter(CUT))
    names = [difference.name for difference in diff_checkpoints(whole, directory).differences]
    assert names == [f"step of {CUT}"], "which the other has none of"
    export(directory, tmp_path / "exported", "bfloat16")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert torch.equal(exported[CUT], model.get_parameter(CUT).bfloat16())
    loaded = type(model).from_pretrained(directory / "model")
    assert torch.equal(loaded.get_parameter(CUT), model.get_parameter(CUT))


@pytest.mark.parametrize("ends", [(16384,), ENDS, (100, 16384)])
def test_any_piece_is_read_of_whatever_pieces_were_written(ends: tuple[int, ...], model: Any, tmp_path: Path) -> None:
    names = names_of(model)
    state = state_of(model, names)
    directory = save(tmp_path, model) if len(ends) == 1 else saved(tmp_path, model, ends)
    with CheckpointReader(directory, names) as reader:
        for group in ("model", "exp_avg"):
            assert CUT in reader.names(group)
            assert torch.equal(reader.read(group, CUT), state[group, CUT])
            for begin, end in ((0, 4096), (4096, 8192), (3, 5), (4000, 9000), (16383, 16384), (0, 16384)):
                found = reader.read(group, f"{CUT}[{begin}:{end}]")
                assert torch.equal(found, state[group, CUT].reshape(-1)[begin:end])
                assert found.untyped_storage().nbytes() == found.nbytes, "no more than that is kept"
        if len(ends) > 1:
            assert float(reader.read("step", f"{CUT}[5:9]")) == float(reader.read("step", CUT)) == 7.0
        with pytest.raises(ModelError, match=r"weight\[0:16385\]: the model's tensor has shape"):
            reader.read("model", f"{CUT}[0:16385]")
        with pytest.raises(MisfitError, match="is of a tensor of 16384 elements, but those up to 16385 are asked for"):
            reader.read("exp_avg", f"{CUT}[0:16385]")


def test_one_that_was_stored_whole_is_read_once_for_all_its_pieces(model: Any, tmp_path: Path) -> None:
    directory = save(tmp_path, model)
    with CheckpointReader(directory, names_of(model)) as reader:
        for begin in range(0, 16384, 1024):
            reader.read("model", f"{CUT}[{begin}:{begin + 1024}]")
        assert reader.tiers == {"checkpoint": 4 * 16384}


def test_a_damaged_piece_is_named_and_the_others_are_read(model: Any, tmp_path: Path) -> None:
    directory = saved(tmp_path, model)
    (path,) = (directory / "model").glob("dense-*.safetensors")
    data = bytearray(path.read_bytes())
    data[-4 * 16384 + 4 * 5000] ^= 1
    path.write_bytes(data)
    (problem,) = verify(directory).problems
    assert problem.tensor == f"{CUT}[4096:8192]" and problem.rule == "digest"
    with CheckpointReader(directory, names_of(model)) as reader:
        assert len(reader.read("model", f"{CUT}[0:4096]")) == 4096
        with pytest.raises(CheckpointError, match=r"weight\[4096:8192\]: digest .* the file was damaged"):
            reader.read("model", CUT)


def with_places(directory: Path, change: Callable[[list[Any]], list[Any]]) -> VerifyResult:
    """A checkpoint whose manifest says something else of where the model's pieces belong."""

    def edit(body: dict[str, Any]) -> None:
        for file in body["files"].values():
            for entry in file.get("tensors", ()):
                if entry[0] == "model" and isinstance(entry[2], list):
                    entry[2] = change(entry[2])

    rewrite(directory, edit)
    return verify(directory)


def test_pieces_of_a_tensor_of_another_shape_are_damage(model: Any, tmp_path: Path) -> None:
    """No resume could read them."""
    directory = saved(tmp_path, model)
    assert with_places(directory, lambda place: place).ok
    found = with_places(directory, lambda place: [place[0], place[1], place[2][::-1]])
    assert [problem.tensor for problem in found.problems] == [f"{CUT}[{b}:{e}]" for b, e in zip((0, *ENDS), ENDS)]
    assert {problem.rule for problem in found.problems} == {"in the manifest as in the file's own header"}


def test_pieces_are_known_by_the_format(model: Any, tmp_path: Path) -> None:
    """Which an older release refuses."""
    directory = saved(tmp_path, model)
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace(FORMAT_OF_SPANS, FORMAT, 1))
    (problem,) = verify(directory).problems
    assert "with pieces of tensors, which" in problem.rule


@pytest.mark.parametrize("odd", [[0, 4096], [0, 4096, 1, 1], [0, 4096, 7]])
def test_a_piece_that_is_none_is_told(odd: list[int], model: Any, tmp_path: Path) -> None:
    found = with_places(saved(tmp_path, model), lambda place: odd if place[0] == 0 else place)
    assert "a piece is [begin, end, whole shape]; it is [0, 4096" in found.problems[0].rule


def test_a_piece_that_nobody_wrote_makes_no_checkpoint(model: Any, tmp_path: Path) -> None:
    shares = shares_of(model)
    shares[1] = [item for item in shares[1] if item.name != f"{CUT}[4096:8192]" or item.group != "model"]
    with pytest.raises(CheckpointError, match=r"dense-\d+.safetensors: bytes \d+ to \d+ belong to nobody"):
        commit(tmp_path, 20, 1, write_parts(tmp_path, names_of(model), shares))


def test_a_piece_of_the_optimizers_state_that_nobody_wrote_makes_none_either(model: Any, tmp_path: Path) -> None:
    shares = shares_of(model)
    shares[1] = [item for item in shares[1] if item.name != f"{CUT}[4096:8192]" or item.group != "exp_avg"]
    parts = write_parts(tmp_path, names_of(model), shares)
    with pytest.raises(CheckpointError, match=r"manifest.json: damaged: exp_avg of .*: what is before it ends at 4096"):
        commit(tmp_path, 20, 1, parts)


def test_a_tensor_that_files_have_in_another_form_is_not_written_in_pieces(model: Any) -> None:
    names = names_of(model)
    experts = "model.layers.0.mlp.experts.down_proj"
    assert names.is_stored_alike(CUT) and not names.is_stored_alike(experts)
    with pytest.raises(ModelError, match=r"has no such tensor"):
        names.to_disk(f"{experts}[0:64]", torch.zeros(64))
    with pytest.raises(ModelError, match=r"shape \(63,\), but the piece has \(64,\)"):
        names.to_disk(f"{CUT}[0:64]", torch.zeros(63))
