"""The model part of a checkpoint against transformers' own saving and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.verify import verify
from dougong.errors import ModelError
from dougong.models.library.classes import auto_class
from dougong.models.library.conversion import Converters
from dougong.parallel.pieces import OwnedPiece
from tests.checkpoint.saving import live_tensor, names_of, save, sites_of, tiny_model
from tests.families import FAMILIES, FURTHER, tiny_config
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found.update(load_file(path))
    return found


def values_on_disk(names: Names, logical: str, disk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for piece in names.pieces(logical):
        whole = disk[piece.name]
        found[piece.name] = whole if piece.row is None else whole[piece.row]
        if piece.span is not None:
            found[piece.name] = whole.view(-1)[piece.span.begin : piece.span.end]
    return found


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_stock_transformers_loads_what_three_workers_wrote(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    directory = save(tmp_path, model, num_workers=3)
    loaded, info = auto_class(model.config).from_pretrained(directory / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert loaded.dtype == torch.float32
    expected, actual = model.state_dict(), loaded.state_dict()
    assert actual.keys() == expected.keys()
    assert [n for n in expected if not torch.equal(actual[n], expected[n])] == []


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_what_save_pretrained_wrote_is_read_bit_by_bit(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "stock")
    disk, live = read_folder(tmp_path / "stock"), model.state_dict()
    with torch.device("meta"):
        names = names_of(auto_class(model.config).from_config(tiny_config(family)))
    for logical, shape in names.tensors():
        read = names.from_disk(logical, values_on_disk(names, logical, disk))
        assert tuple(read.shape) == shape
        assert torch.equal(read, live_tensor(live, logical)), logical


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER])
def test_the_folder_holds_what_transformers_would_write(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    expected = revert_weight_conversion(model, dict(model.state_dict()))
    folder = save(tmp_path, model) / "model"
    actual = read_folder(folder)
    assert actual.keys() == expected.keys()
    assert [n for n in expected if not torch.equal(actual[n], expected[n])] == []
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == expected.keys()
    assert {file for file in index.values() if not (folder / file).is_file()} == set()


def test_the_loss_is_the_same_after_a_save(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe")).eval()
    loaded = AutoModelForCausalLM.from_pretrained(save(tmp_path, model) / "model").eval()
    ids = torch.randint(3, 120, (2, 16))
    assert torch.equal(loaded(ids, labels=ids).loss, model(ids, labels=ids).loss)


def test_a_fused_tensor_lies_in_one_file_of_rows_for_a_site(tmp_path: Path) -> None:
    model = tiny_model("gpt_oss")
    names = names_of(model)
    site = sites_of(model)[1]
    (piece,) = names.pieces(f"{site}.down_proj[5]")
    assert (piece.name, piece.row) == (f"{site}.down_proj", 5)
    assert piece.name in names.shared_files()["experts-00001.safetensors"].tensors
    save(tmp_path, model, num_workers=3)
    assert len(list(tmp_path.glob("step-*/model/experts-*.safetensors"))) == len(names.sites)


def test_parts_of_one_tensor_on_disk_are_written_by_their_owners_and_read_back(tmp_path: Path) -> None:
    """Queries, keys and values of Step-3.7's tower have one tensor between them, and three owners."""
    model = tiny_model("step3p7")
    names = names_of(model)
    directory = save(tmp_path, model, num_workers=3)
    assert verify(directory).is_whole
    parts = [name for name, _ in names.tensors() if names.pieces(name)[0].span is not None]
    assert len(parts) == 2 * 3 * 2, "weights and biases of three projections in two layers"
    with CheckpointReader(directory, names) as reader:
        for name in parts:
            assert torch.equal(reader.read("model", name), model.state_dict()[name]), name
    ranks = {entry.span.begin for _, entry in Manifest.load(directory).entries() if entry.span is not None}
    assert len(ranks) > 1
    with pytest.raises(ModelError, match="files have .* in another form"):
        names.pieces(OwnedPiece(parts[0], 0, 4).name)


def test_rows_of_experts_that_compute_nothing_are_tensors_too() -> None:
    names = names_of(tiny_model("longcat_flash"))
    logical = [n for n, _ in names.tensors() if n.startswith("model.layers.0.mlp.experts.")]
    assert sum("gate_up_proj" in n for n in logical) == 12
    assert sum("down_proj" in n for n in logical) == 8
    with pytest.raises(ModelError, match=r"down_proj\[8\]: the model has no such tensor"):
        names.pieces("model.layers.0.mlp.experts.down_proj[8]")


def test_buffers_are_state_and_keep_their_dtype(tmp_path: Path) -> None:
    model = tiny_model("deepseek_v4")
    integers = [n for n, t in model.state_dict().items() if t.dtype == torch.int64]
    assert integers
    names = names_of(model)
    assert names.pieces(integers[0])[0].disk.dtype == "I64"
    with CheckpointReader(save(tmp_path, model), names) as reader:
        assert torch.equal(reader.read("model", integers[0]), model.state_dict()[integers[0]])


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe", tie_word_embeddings=True)
    names = names_of(model)
    assert names.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    with pytest.raises(ModelError, match=r"tied to model\.embed_tokens\.weight"):
        names.pieces("lm_head.weight")
    directory = save(tmp_path, model)
    assert "lm_head.weight" not in read_folder(directory / "model")
    loaded = AutoModelForCausalLM.from_pretrained(directory / "model")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    ("logical", "shape", "message"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj[8]", (64, 64), "no such tensor"),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 64, 64), "no such tensor"),
        ("model.norm.weight[0]", (64,), "no such tensor"),
        ("model.norm.weight", (65,), r"shape \(65,\), but the model has \(64,\)"),
    ],
)
def test_a_wrong_name_or_shape_is_refused(logical: str, shape: tuple[int, ...], message: str) -> None:
    names = names_of(tiny_model("qwen3_moe"))
    with pytest.raises(ModelError, match=message):
        names.to_disk(logical, torch.zeros(shape))


def mixing_model(sources: list[str]) -> Any:
    """A model whose files hold one tensor for several live ones."""
    from transformers.core_model_loading import Chunk, WeightConverter

    model = tiny_model("qwen3_moe")
    model._weight_conversions = [WeightConverter("self_attn.kv.weight", sources, [Chunk(dim=0)])]
    return model


def test_a_family_whose_files_mix_tensors_is_refused_by_name() -> None:
    model = mixing_model(["self_attn.k_proj.weight", "self_attn.v_proj.weight"])
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.k_proj\.weight: this family's files mix it"):
        names_of(model)


def test_fewer_rows_than_experts_is_refused() -> None:
    model = tiny_model("qwen3_moe")
    with pytest.raises(ModelError, match="expected at least 9 experts"):
        Names.of(model, sites_of(model), 9)


def test_asking_transformers_does_not_grow_with_the_number_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    revert = Converters.revert

    def counted(self: Converters, live: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        asked.append(live)
        return revert(self, live, tensor)

    monkeypatch.setattr(Converters, "revert", counted)
    counts = []
    for num_experts in (8, 4096):
        asked.clear()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe", num_experts=num_experts))
        names = Names.of(model, sites_of(model), num_experts)
        assert sum(1 for _ in names.tensors()) > num_experts * 2 * 3
        counts.append(len(asked))
    assert counts[0] == counts[1]
    assert names.pieces("model.layers.0.mlp.experts.down_proj[4095]")[0].name.endswith("experts.4095.down_proj.weight")
