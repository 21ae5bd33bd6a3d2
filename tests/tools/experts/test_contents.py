"""What a folder or a checkpoint holds, expert by expert, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.errors import SourceError
from dougong.models.stored.folder import SINGLE
from dougong.tools.experts.contents import Contents, StoredPart, contents_of, is_folder, is_weights
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import save, tiny_model
from tests.quantised_folders import BLOCK, by_hand, to_fp8


def test_a_row_is_read_where_it_lies(tmp_path: Path) -> None:
    rows = torch.randn(8, 3, 2)
    save_file({"model.layers.0.mlp.experts.down_proj": rows, "a": torch.ones(2)}, tmp_path / SINGLE)
    (experts,) = contents_of(tmp_path).sites.values()
    assert list(experts) == list(range(8))
    for number, expert in experts.items():
        stored = expert["down_proj"]
        assert (stored.shape, stored.label) == ((3, 2), f"model.layers.0.mlp.experts.down_proj[{number}]")
        assert torch.equal(torch.frombuffer(stored.read(), dtype=torch.float32).view(3, 2), rows[number])
    assert list(contents_of(tmp_path).others) == ["a"]


def test_of_a_checkpoint_that_several_workers_wrote_all_is_found_as_in_its_folder(tmp_path: Path) -> None:
    path = save(tmp_path, tiny_model("qwen3_moe", num_hidden_layers=2), num_workers=3)
    checkpoint, folder = contents_of(path), contents_of(path / "model")
    assert list(checkpoint.sites) == list(folder.sites) and list(checkpoint.others) == list(folder.others)
    for site, experts in checkpoint.sites.items():
        for number, expert in experts.items():
            for part, stored in expert.items():
                assert stored.digest and stored.read() == folder.sites[site][number][part].read()
    tensors = load_file(next((path / "model").glob("*.safetensors")))
    assert tensors.keys() <= {one.label for one in folder.others.values()} | {
        one.label for experts in folder.sites.values() for expert in experts.values() for one in expert.values()
    }


def test_what_lies_in_several_places_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"..cd")
    (tmp_path / "b").write_bytes(b"ab")
    stored = StoredPart("x", "U8", (4,), ((tmp_path / "b", 0, 2), (tmp_path / "a", 2, 2)))
    assert (stored.read(), stored.num_bytes) == (b"abcd", 4)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("")
    with pytest.raises(SourceError, match="nowhere: no such directory; give a checkpoint or a Hugging Face folder"):
        contents_of(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="job.yaml: is a file; give"):
        contents_of(tmp_path / "job.yaml")


def test_quantised_tensors_are_there_as_they_read_where_that_is_asked_for(tmp_path: Path) -> None:
    tiny_model("qwen3_moe", num_hidden_layers=1).save_pretrained(tmp_path)
    to_fp8(tmp_path)
    stored, read = contents_of(tmp_path), contents_of(tmp_path, by_value=True)
    (site,) = read.sites
    name = "up_proj.weight"
    assert (stored.sites[site][3][name].dtype, read.sites[site][3][name].dtype) == ("F8_E4M3", "F32")
    assert f"{name}_scale_inv" in stored.sites[site][3] and f"{name}_scale_inv" not in read.sites[site][3]
    values = torch.frombuffer(read.sites[site][3][name].read(), dtype=torch.float32)
    tensors = load_file(tmp_path / SINGLE)
    whole = f"{site}.3.{name}"
    assert torch.equal(values.view(32, 64), by_hand(tensors[whole], tensors[f"{whole}_scale_inv"], BLOCK))


def test_what_holds_weights_is_known_by_its_files(tmp_path: Path) -> None:
    assert not is_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_folder(tmp_path) and is_weights(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], "no experts"),
        ([8], "8 experts in 1 layer"),
        ([8, 8], "8 experts in each of 2 layers"),
        ([8, 6], "6 to 8 experts in each of 2 layers"),
    ],
)
def test_how_many_there_are_in_words(numbers: list[int], words: str) -> None:
    sites = {str(place): {n: dict[str, StoredPart]() for n in range(number)} for place, number in enumerate(numbers)}
    assert Contents(Path(), sites, {}).num_experts == words
