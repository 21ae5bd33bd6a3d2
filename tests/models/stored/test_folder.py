"""What a Hugging Face folder holds, by its files' headers: everything incomplete is named, with the remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.errors import ModelError
from dougong.models.stored.folder import INDEX, SINGLE, check_folder, problems, read_json, stored_tensors
from safetensors.torch import save_file

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


def one_file(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "qwen3_moe"}')
    save_file({"a.weight": torch.ones(4, 2), "b": torch.arange(3)}, folder / SINGLE)
    return folder


def two_files(folder: Path) -> Path:
    one_file(folder)
    (folder / SINGLE).rename(folder / FIRST)
    save_file({"c": torch.ones(2, dtype=torch.bfloat16)}, folder / SECOND)
    write_index(folder, {"a.weight": FIRST, "b": FIRST, "c": SECOND})
    return folder


def write_index(folder: Path, named: dict[str, str]) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": named}))


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def test_a_whole_folder_is_told_by_name_dtype_and_shape(tmp_path: Path) -> None:
    found = stored_tensors(two_files(tmp_path))
    assert {name: (t.file.name, t.dtype, t.shape, t.num_bytes) for name, t in found.items()} == {
        "a.weight": (FIRST, "F32", (4, 2), 32),
        "b": (FIRST, "I64", (3,), 24),
        "c": (SECOND, "BF16", (2,), 4),
    }
    check_folder(tmp_path)


def test_one_file_comes_before_an_index_as_transformers_has_it(tmp_path: Path) -> None:
    two_files(tmp_path)
    save_file({"newer": torch.ones(1)}, tmp_path / SINGLE)
    assert list(stored_tensors(tmp_path)) == ["newer"]


def test_a_tensor_that_the_index_forgot_is_there_as_transformers_has_it(tmp_path: Path) -> None:
    two_files(tmp_path)
    write_index(tmp_path, {"a.weight": FIRST, "c": SECOND})
    assert set(stored_tensors(tmp_path)) == {"a.weight", "b", "c"}


def unlink_second(folder: Path) -> None:
    (folder / SECOND).unlink()


def empty_the_cache(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).symlink_to("../../blobs/4d7a")


def write_as(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


BROKEN: list[tuple[Callable[[Path], Path], Callable[[Path], None], str]] = [
    (one_file, write_as(SINGLE, POINTER), f"{SINGLE}: is a git-lfs pointer, not the file itself: run `git lfs pull`"),
    (one_file, write_as("config.json", POINTER), "config.json: is a git-lfs pointer"),
    (one_file, write_as("config.json", "{"), "config.json: is not JSON (Expecting property name"),
    (one_file, write_as("config.json", "[1]"), "config.json: holds a list, not a JSON object"),
    (
        one_file,
        write_as("config.json", '{"quantization_config": {"quant_method": "gptq"}}'),
        "holds quantised weights (gptq, by its config.json)",
    ),
    (one_file, lambda f: (f / "config.json").unlink(), "has no config.json; give a Hugging Face folder"),
    (one_file, write_as(SINGLE, ""), f"{SINGLE}: is empty: the download was not complete; download it again"),
    (one_file, write_as(SINGLE, "<html>Not found</html>"), f"{SINGLE}: is a web page"),
    (one_file, write_as(SINGLE, "PK\3\4 pickled"), f"{SINGLE}: is a zip"),
    (one_file, write_as(SINGLE, "no header at all"), f"{SINGLE}: is not a safetensors file (16 bytes, no header)"),
    (one_file, lambda f: cut(f / SINGLE, 20), f"{SINGLE}: is cut short: it has 20 bytes, its header promises"),
    (one_file, lambda f: cut(f / SINGLE, -4), f"{SINGLE}: is cut short: it has"),
    (one_file, empty_the_cache, f"{SINGLE}: cannot be read: No such file or directory"),
    (one_file, lambda f: (f / SINGLE).unlink(), f"holds neither {INDEX} nor {SINGLE}; only safetensors are read"),
    (two_files, unlink_second, f"{INDEX}: names 2 files, of which 1 are not there: {SECOND}; download it again"),
    (two_files, write_as(INDEX, POINTER), f"{INDEX}: is a git-lfs pointer"),
    (two_files, write_as(INDEX, "{"), f"{INDEX}: is not JSON"),
    (two_files, write_as(INDEX, "{}"), f"{INDEX}: has no weight_map"),
    (two_files, lambda f: write_index(f, {"x": "../x.safetensors"}), "x is said to lie in '../x.safetensors'"),
    (two_files, lambda f: write_index(f, {"d": SECOND, "c": SECOND}), f"{SECOND}: does not hold d, which {INDEX} says"),
]


@pytest.mark.parametrize(("make", "spoil", "message"), BROKEN, ids=[case[2][:60] for case in BROKEN])
def test_an_incomplete_folder_is_refused_by_file_and_reason(
    make: Callable[[Path], Path], spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    check_folder(folder)
    spoil(folder)
    with pytest.raises(ModelError, match=re.escape(message)):
        check_folder(folder)
    assert len(problems(folder)) == 1


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (one_file(tmp_path) / SINGLE).write_text("")
    (tmp_path / "config.json").write_text("")
    found = [re.search(r"(\S+): is empty", text) for text in problems(tmp_path)]
    assert [Path(match[1]).name for match in found if match] == ["config.json", SINGLE]


def test_more_bytes_than_the_header_knows_are_refused(tmp_path: Path) -> None:
    path = one_file(tmp_path) / SINGLE
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ModelError, match="its header accounts for"):
        stored_tensors(tmp_path)


def test_a_size_that_is_not_the_shapes_is_refused(tmp_path: Path) -> None:
    path = one_file(tmp_path) / SINGLE
    path.write_bytes(path.read_bytes().replace(b"[4,2]", b"[4,3]"))
    with pytest.raises(ModelError, match=r"a.weight of F32 \[4, 3\] is said to have 32 bytes"):
        stored_tensors(tmp_path)


def test_pickled_weights_are_named_and_never_opened(tmp_path: Path) -> None:
    (one_file(tmp_path) / SINGLE).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only safetensors are read \(pytorch_model.bin may run code"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"w.weight": torch.ones(4).to(torch.float8_e4m3fn)},
            "w.weight is stored as F8_E4M3, and its config.json",
        ),
        ({"w.weight": torch.ones(4), "w.weight_scale_inv": torch.ones(1)}, "holds w.weight_scale_inv (F32), a scale"),
        ({"w.weight": torch.ones(4), "w.weight_scale": torch.ones(1)}, "holds w.weight_scale (F32), a scale"),
        ({"w.qweight": torch.arange(4), "w.scales": torch.ones(1)}, "holds w.scales (F32), a scale"),
        ({"w_blocks": torch.arange(4), "w_scales": torch.arange(1)}, "holds w_scales (I64), a scale"),
    ],
)
def test_quantised_values_are_refused_by_file_tensor_and_dtype(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    save_file(tensors, one_file(tmp_path) / SINGLE)
    with pytest.raises(ModelError, match=re.escape(message)) as refused:
        stored_tensors(tmp_path)
    assert SINGLE in str(refused.value) and "put that of its release back there" in str(refused.value)


def test_a_parameter_called_scale_may_be_the_models_own(tmp_path: Path) -> None:
    save_file({"norm.scale": torch.ones(4), "norm.bias": torch.ones(4)}, one_file(tmp_path) / SINGLE)
    assert set(stored_tensors(tmp_path)) == {"norm.scale", "norm.bias"}


def test_json_of_a_folder_is_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(POINTER)
    with pytest.raises(ModelError, match=r"tokenizer.json: is a git-lfs pointer.*git lfs pull"):
        read_json(tmp_path / "tokenizer.json")


def test_a_look_at_a_folder_loads_no_torch() -> None:
    heavy = {"torch", "safetensors", "transformers"}
    code = f"import sys, dougong.models.stored.folder; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
