"""A manifest that contradicts itself is refused, although its digest is right: no key is needed to see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.sense import check_sense, count_held
from dougong.checkpoint.tensorfile import ITEM_BYTES
from dougong.errors import CheckpointError
from tests.checkpoint.edits import rewrite
from tests.checkpoint.saving import save, tiny_model

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every kind of file, and state of the optimizer."""
    return save(tmp_path_factory.mktemp("run"), tiny_model("gpt_oss", num_hidden_layers=1))


@pytest.fixture
def body(written: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((written / "manifest.json").read_bytes())
    return dict(document["body"])


def entry_of(body: dict[str, Any], group: str) -> list[Any]:
    """An entry of a group, of more than one number."""
    files = [raw["tensors"] for raw in body["files"].values() if "tensors" in raw]
    found: list[Any] = next(entry for entries in files for entry in entries if entry[0] == group and entry[4] > 64)
    return found


def without_a_file(kind: str) -> Edit:
    def edit(body: dict[str, Any]) -> None:
        del body["files"][next(name for name in body["files"] if kind in name)]

    return edit


def other_shape(body: dict[str, Any]) -> None:
    entry_of(body, "model")[6].append(2)


def other_dtype(body: dict[str, Any]) -> None:
    entry_of(body, "model")[5] = "F16"


def shape_turned(body: dict[str, Any]) -> None:
    entry = entry_of(body, "exp_avg")
    entry[6] = [entry[6][0] * 2, entry[6][1] // 2] if len(entry[6]) == 2 else [1, *entry[6]]


def no_such_tensor(body: dict[str, Any]) -> None:
    entry_of(body, "exp_avg")[1] = "model.extra.weight"


def twice(body: dict[str, Any]) -> None:
    first, second = body["files"]["optimizer/rank00000.safetensors"]["tensors"][:2]
    first[:3] = second[:3]


def larger_model(body: dict[str, Any]) -> None:
    body["logical"]["dense"]["model.extra.weight"] = [3]


def no_model(body: dict[str, Any]) -> None:
    body["logical"] = {}


def other_group(body: dict[str, Any]) -> None:
    entry_of(body, "exp_avg")[0] = "momentum"


def set_to(key: str, value: Any) -> Edit:
    def edit(body: dict[str, Any]) -> None:
        body[key] = value

    return edit


def wide_offset(body: dict[str, Any]) -> None:
    entry_of(body, "model")[3] = float(entry_of(body, "model")[3])


def in_two(*, then: Edit | None = None) -> Edit:
    """A dense tensor of the optimizer's state in two pieces; `then` changes the second."""

    def edit(body: dict[str, Any]) -> None:
        entries = body["files"]["optimizer/rank00000.safetensors"]["tensors"]
        found = next(e for e in entries if e[0] == "exp_avg" and e[1] == "model.norm.weight")
        place, (numel,) = entries.index(found), found[6]
        group, name, _, offset, num_bytes, dtype, shape, checksum = found
        half = [group, name, [0, numel // 2, shape], offset, num_bytes // 2, dtype, [numel // 2], checksum]
        other = [
            *half[:2],
            [numel // 2, numel, list(shape)],
            offset + num_bytes // 2,
            *half[4:6],
            [numel // 2],
            checksum,
        ]
        entries[place : place + 1] = [half, other]
        body["held"]["exp_avg"] += 1
        if then is not None:
            then({"second": other, "entries": entries, "whole": found, "held": body["held"]})

    return edit


def begins_later(made: dict[str, Any]) -> None:
    made["second"][2][0] += 1


def ends_later(made: dict[str, Any]) -> None:
    made["second"][2][1] += 1


def is_of_another(made: dict[str, Any]) -> None:
    made["second"][2][2] = [7]


def is_gone(made: dict[str, Any]) -> None:
    made["entries"].remove(made["second"])
    made["held"]["exp_avg"] -= 1


def is_whole_too(made: dict[str, Any]) -> None:
    made["entries"].append(made["whole"])
    made["held"]["exp_avg"] += 1


def has_other_place(made: dict[str, Any]) -> None:
    made["second"][2] = [0, 1]


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (begins_later, r"exp_avg of model.norm.weight\[\d+:\d+\]: what is before it ends at"),
        (ends_later, r"has shape \[\d+\]"),
        (is_of_another, r"is of shape \(7,\), \(\d+,\) before it"),
        (is_gone, r"exp_avg of model.norm.weight: its pieces end at \d+, it has shape \[\d+\]"),
        (is_whole_too, "and the whole tensor in optimizer/rank00000.safetensors"),
        (has_other_place, "Field required|should be"),
    ],
)
def test_pieces_that_are_not_all_of_a_tensor_are_refused(then: Edit, reason: str, body: dict[str, Any]) -> None:
    in_two(then=then)(body)
    with pytest.raises(ValueError, match=reason):
        check_sense(body, ITEM_BYTES)


def test_pieces_that_are_make_sense(body: dict[str, Any]) -> None:
    in_two()(body)
    check_sense(body, ITEM_BYTES)


HOSTILE = {
    "model/\0x": "a file's name holds no control characters",
    "\x1b[2J": "a file's name holds no control characters",
    "": "'': is no file's name inside the directory",
    ".": "is no file's name",
    "model/": "is no file's name",
    "model//config.json": "is no file's name",
    "/etc/passwd": "leads out of the directory",
    "x" * 300: "a file's name has at most 255 bytes and 16 folders",
    "a/" * 3000 + "b": "a file's name has at most",
}
AT_ODDS: list[tuple[Edit, str]] = [
    (without_a_file("optimizer/"), "its files hold .* tensors and rows, it says"),
    (without_a_file("experts-"), "its files hold .* tensors and rows, it says"),
    (other_shape, r"F32 \[.*, 2\] takes \d+ bytes, it says"),
    (other_dtype, r"F16 \[.*\] takes \d+ bytes, it says"),
    (shape_turned, r"exp_avg of .*: has shape \[.*\], its tensor \["),
    (no_such_tensor, "exp_avg of model.extra.weight: the model has no such tensor"),
    (twice, "lies in optimizer/rank00000.safetensors and in optimizer/rank00000.safetensors"),
    (larger_model, r"its files hold \d+ numbers of the model, which has"),
    (no_model, "has no such tensor|which has 0"),
    (other_group, "tensors and rows, it says"),
    (set_to("step", "20"), "step: Input should be a valid integer; it is '20'"),
    (set_to("step", 20.0), "step: Input should be a valid integer"),
    (set_to("generation", -1), "generation: Input should be greater than or equal to 0; it is -1"),
    (set_to("fence", True), "fence: Input should be a valid integer"),
    (set_to("header", []), "header: Input should be a valid dictionary"),
    (set_to("keep_float32", [1]), "keep_float32.0: Input should be a valid string"),
    (set_to("files", {"../x": {"bytes": 0, "digest": "00"}}), "../x: leads out of the directory"),
    (wide_offset, "Input should be a valid integer"),
    (set_to("step", 10**4000), "step: Input should be less than"),
    (set_to("header", {"recipe": 3}), "header.recipe: Input should be a valid dictionary"),
    (set_to("header", {"versions": {"torch": 2}}), "header.versions.torch: Input should be a valid string"),
    (set_to("header", {"kernels": {"roles": 1}}), "header.kernels"),
    *[(set_to("files", {name: {"bytes": 0, "digest": "00"}}), reason) for name, reason in HOSTILE.items()],
]


@pytest.mark.parametrize(("edit", "reason"), AT_ODDS)
def test_what_contradicts_itself_is_refused(edit: Edit, reason: str, body: dict[str, Any]) -> None:
    check_sense(body, ITEM_BYTES)
    edit(body)
    with pytest.raises(ValueError, match=reason):
        check_sense(body, ITEM_BYTES)


@pytest.mark.parametrize(("edit", "reason"), AT_ODDS)
def test_so_is_its_checkpoint_with_whatever_digest(edit: Edit, reason: str, written: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((written / "manifest.json").read_bytes())
    Manifest.load(tmp_path)
    rewrite(tmp_path, edit)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged: .*; use another checkpoint"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("step-000040", "its step is 20, the directory's name says 40"),
        ("step-000020.g3", "its generation is 1, the directory's name says 3"),
        ("step-000020", ""),
        ("step-000020.g1", ""),
        ("a-copy", ""),
    ],
)
def test_a_directory_of_another_name_is_no_checkpoint(name: str, reason: str, written: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.json").write_bytes((written / "manifest.json").read_bytes())
    if not reason:
        assert Manifest.load(tmp_path / name).step == 20
        return
    with pytest.raises(CheckpointError, match=reason):
        Manifest.load(tmp_path / name)


def test_a_number_of_tensors_that_nobody_can_list_is_not_listed(body: dict[str, Any]) -> None:
    body["logical"]["experts"]["site.none"] = [10**15, 0]
    with pytest.raises(ValueError, match="site.none: 1000000000000000 experts of shape \\[0\\], which is nothing"):
        check_sense(body, ITEM_BYTES)
    body["logical"]["experts"]["site.none"] = [10**15, 1]
    with pytest.raises(ValueError, match="numbers of the model"):
        check_sense(body, ITEM_BYTES)


def test_what_a_group_holds_is_counted() -> None:
    assert count_held(["model", "exp_avg", "model"]) == {"exp_avg": 1, "model": 2}
