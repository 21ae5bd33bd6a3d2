"""A checkpoint that is not what was written is never called valid, and the damage is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.export import small_files
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.repository import newest_valid
from dougong.checkpoint.verify import verify, verify_sizes
from dougong.errors import CheckpointError
from tests.checkpoint.edits import rewrite
from tests.checkpoint.saving import make_not_finite, save, tiny_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint with every kind of file: a worker's own, one shared by all, the optimizer's, small ones."""
    return save(tmp_path_factory.mktemp("run"), tiny_model("gpt_oss"))


@pytest.fixture
def directory(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / written.name))


def flip(path: Path, byte: int, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(bytes(data))


KINDS = [
    "model/model-rank00000.safetensors",
    "model/experts-00001.safetensors",
    "optimizer/rank00001.safetensors",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors.index.json",
]


def test_what_was_written_is_valid(directory: Path) -> None:
    result = verify(directory)
    assert result.ok, str(result)
    assert result.step == 20
    assert result.num_bytes == sum(p.stat().st_size for p in directory.glob("*/*"))
    assert "step 20" in str(result)
    assert str(result).endswith("ok")


@pytest.mark.parametrize("file", KINDS)
def test_one_flipped_bit_is_found_and_named(directory: Path, file: str) -> None:
    flip(directory / file, (directory / file).stat().st_size // 2)
    result = verify(directory)
    assert [p.file for p in result.problems] == [file]
    if file.endswith(".safetensors"):
        record = Manifest.load(directory).files[file]
        middle = record.num_bytes // 2
        hit = next(e for e in record.entries if e.offset <= middle < e.offset + e.num_bytes)
        assert result.problems[0].tensor == hit.label
        assert result.problems[0].expected == hit.digest != result.problems[0].actual


@pytest.mark.parametrize("file", [k for k in KINDS if k.endswith(".safetensors")])
@pytest.mark.parametrize("byte", [0, 20, -1])
def test_a_flipped_bit_in_a_header_or_in_the_last_byte_is_found(directory: Path, file: str, byte: int) -> None:
    flip(directory / file, byte)
    (problem,) = verify(directory).problems
    assert problem.file == file
    assert (problem.rule == "header's digest") == (byte >= 0)


def test_any_byte_of_a_small_file_counts(directory: Path) -> None:
    path = directory / "model/generation_config.json"
    whole = path.read_bytes()
    for byte in range(0, len(whole), 5):
        flip(path, byte, byte % 8)
        assert [p.rule for p in verify(directory, threads=1).problems] == ["digest"]
        path.write_bytes(whole)


@pytest.mark.parametrize("file", KINDS)
@pytest.mark.parametrize("remaining", [0, 1, -1])
def test_a_truncated_file_is_found_by_its_size_alone(directory: Path, file: str, remaining: int) -> None:
    path = directory / file
    data = path.read_bytes()
    path.write_bytes(data[:remaining])
    for result in (verify(directory), verify_sizes(directory)):
        (problem,) = result.problems
        assert (problem.file, problem.rule) == (file, "size in bytes")


def test_a_longer_file_is_found(directory: Path) -> None:
    with (directory / KINDS[0]).open("ab") as file:
        file.write(b"x")
    assert [p.file for p in verify(directory).problems] == [KINDS[0]]


def test_a_zeroed_page_is_found(directory: Path) -> None:
    path = directory / "optimizer/rank00000.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 8192 * 4096)
        file.write(b"\0" * 4096)
    problems = verify(directory).problems
    assert {p.file for p in problems} == {"optimizer/rank00000.safetensors"}
    assert all(p.tensor.startswith(("exp_avg of ", "exp_avg_sq of ")) for p in problems)


@pytest.mark.parametrize("file", KINDS)
def test_a_missing_file_is_found(directory: Path, file: str) -> None:
    (directory / file).unlink()
    (problem,) = verify(directory).problems
    assert (problem.file, problem.actual) == (file, "no such file")


def test_no_manifest_no_checkpoint(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    result = verify(directory)
    assert not result.ok
    assert "never committed" in str(result)


def test_a_file_that_nobody_wrote_would_be_loaded_and_is_found(directory: Path) -> None:
    (directory / "model/model.safetensors").write_bytes(b"")
    (problem,) = verify(directory).problems
    assert problem.file == "model/model.safetensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("label", ["lm_head.weight", "model.layers.1.mlp.experts.down_proj[5]", "exp_avg_sq of {}"])
def test_a_tensor_that_is_not_finite_is_named_although_it_is_as_written(
    directory: Path, label: str, value: float
) -> None:
    label = label.format("model.norm.weight")
    make_not_finite(directory, label, value)
    (problem,) = verify(directory).problems
    assert (problem.tensor, problem.rule) == (label, "finite")
    assert str(verify(directory)).endswith(
        f"{label}: finite: expected no NaN and no infinity, found 1 value that is not finite (NaN or infinite)"
    )
    assert verify_sizes(directory).ok, "which reads no tensor"


def entries_of(body: dict[str, Any]) -> list[list[Any]]:
    return [entry for file in body["files"].values() for entry in file.get("tensors", ())]


@pytest.mark.parametrize(("place", "value"), [(6, [2, 2048]), (5, "I32")])
def test_a_manifest_that_differs_from_a_files_own_header_is_damaged(directory: Path, place: int, value: object) -> None:
    """By a tensor that has another name in training: nothing else in the manifest contradicts it."""

    def edit(body: dict[str, Any]) -> None:
        entry = next(e for e in entries_of(body) if e[0] == "model" and e[5:7] == ["F32", [64, 64]])
        dense = body["logical"]["dense"]
        dense["other"] = dense.pop(entry[1])
        for other in entries_of(body):
            other[1] = "other" if other[0] != "model" and other[1] == entry[1] else other[1]
        entry[place] = value

    rewrite(directory, edit)
    problem = verify(directory).problems[0]
    assert problem.rule == "in the manifest as in the file's own header"
    assert problem.expected.startswith("F32 [64, 64] in bytes ")
    assert str(value) in problem.actual
    assert newest_valid(directory.parent) is None


def test_a_stored_tensor_of_the_same_name_has_the_same_shape(directory: Path) -> None:
    def edit(body: dict[str, Any]) -> None:
        shape = next(e for e in entries_of(body) if e[:2] == ["model", "lm_head.weight"])[6]
        shape[:] = [shape[0] // 2, shape[1] * 2]

    rewrite(directory, edit)
    assert "lm_head.weight: has shape [" in str(verify(directory))


@pytest.mark.parametrize("name", ["model", "model/config.json", "manifest.json", "optimizer"])
def test_a_link_inside_leads_out_of_what_was_proved(directory: Path, name: str, tmp_path: Path) -> None:
    (directory / name).rename(tmp_path / "away")
    (directory / name).symlink_to(tmp_path / "away")
    for result in (verify(directory), verify_sizes(directory)):
        assert f"{name}: no link: expected what was written, in its place, found a link to {tmp_path}" in str(result)


def test_an_alien_file_is_a_remark(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    (directory / "linked").symlink_to(directory)
    result = verify(directory)
    assert result.ok
    assert [remark.partition(",")[0] for remark in result.remarks] == ["holds linked", "holds notes.txt"]


@pytest.mark.parametrize(
    ("name", "rule"), [("manifest.json", "such a file at most"), ("model/config.json", "size in bytes")]
)
def test_a_hole_larger_than_memory_is_told(directory: Path, name: str, rule: str) -> None:
    manifest = Manifest.load(directory)
    os.truncate(directory / name, 1 << 40)
    assert rule in str(verify(directory))
    assert str(1 << 40) in str(verify(directory))
    if name != "manifest.json":
        with pytest.raises(CheckpointError, match=str(1 << 40)):
            small_files(directory, manifest)


def test_what_is_wrong_with_a_manifest_names_it_once_and_gives_no_remedy(directory: Path) -> None:
    (directory / "manifest.json").write_text("{}")
    (problem,) = verify(directory).problems
    assert str(problem) == "manifest.json: damaged: 'format'"


def test_two_steps_exchanged_are_found(directory: Path) -> None:
    other = directory.rename(directory.parent / "step-000040")
    assert "its step is 20, the directory's name says 40" in str(verify(other))


def test_verifying_and_comparing_need_no_torch(directory: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from dougong.checkpoint.repository import newest_valid, prune\n"
        "from dougong.tools.run_diff import diff; from dougong.checkpoint.export import export\n"
        f"d = newest_valid(Path({str(directory.parent)!r})); assert d is not None; assert diff(d, d).equal\n"
        f"export(d, Path({str(tmp_path / 'out')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
