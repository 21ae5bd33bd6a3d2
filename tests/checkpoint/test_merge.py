"""Parts of one step, held against each other without a file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.checkpoint.manifest import Entry, FileRecord, ModelTensors
from dougong.checkpoint.merge import check_complete, check_origin, expected_tensors, merge_files, merge_models
from dougong.checkpoint.part import CheckpointPart, ModelDescription, StateShape
from dougong.errors import CheckpointError
from dougong.parallel.plan import Inventory, TensorSpec

SHARED = "model/experts-00000.safetensors"


def row(number: int) -> Entry:
    return Entry("model", "w", number, 16 + 8 * number, 8, "F32", (2,), "aa")


def part(rank: int, rows: list[int], header: bool = False, num_bytes: int = 48) -> CheckpointPart:
    """A worker that owns these of four rows of one shared tensor."""
    record = FileRecord(num_bytes, None, (16, "hh") if header else None, tuple(row(n) for n in rows))
    state = tuple(StateShape("model", f"w[{n}]", (2,)) for n in rows)
    return CheckpointPart(f"east/{rank}", rank, 1, 20, "step-000020.g1", {SHARED: record}, state)


def test_one_file_of_several_workers_becomes_whole() -> None:
    files = merge_files([part(1, [2, 3]), part(0, [0, 1], header=True)])
    assert files[SHARED].header == (16, "hh")
    assert sorted(e.row for e in files[SHARED].entries if e.row is not None) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part(0, [0, 1], True), part(1, [3])], "bytes 32 to 40 belong to nobody"),
        ([part(0, [0, 1], True), part(1, [1, 2, 3])], "bytes 24 to 32 are written twice"),
        ([part(0, [0, 1]), part(1, [2, 3])], "nobody wrote its header"),
        ([part(0, [0, 1], True), part(1, [2, 3], True)], "two workers wrote its header"),
        ([part(0, [0, 1], True), part(1, [2, 3], num_bytes=56)], "disagree on its size, 48 and 56 bytes"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(parts: list[CheckpointPart], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"experts-00000.safetensors: .*{message}"):
        merge_files(parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "step 20: no part to commit"),
        ([replace(part(0, [0]), step=40)], "east/0 sent a part of step 40"),
        ([replace(part(0, [0]), generation=3)], "east/0 sent a part of step 20, generation 3"),
        ([part(0, [0]), part(1, [1]), part(1, [2])], "east/1 sent more than one part"),
    ],
)
def test_parts_of_another_save_are_refused(parts: list[CheckpointPart], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_origin(parts, 20, 1, "step-000020.g1")


def test_workers_must_have_built_the_same_model() -> None:
    one, other = (ModelDescription(ModelTensors({"v": (size,)})) for size in (2, 3))
    assert merge_models([part(0, [0]), replace(part(1, [1]), model=one)]) == one
    assert merge_models([part(0, [0])]) == ModelDescription(ModelTensors())
    with pytest.raises(CheckpointError, match="did not build the same model"):
        merge_models([replace(part(0, [0]), model=one), replace(part(1, [1]), model=other)])


def test_what_a_checkpoint_must_hold_is_read_from_the_model() -> None:
    tensors = (TensorSpec("v", (3,), True), TensorSpec("buffer", (1,), False))
    inventory = Inventory("toy", tensors, ("s",), 2, (("up", (4, 5)),))
    found = expected_tensors(inventory, ("momentum",))
    assert [(item.group, item.name) for item in found] == [
        ("model", "v"), ("model", "buffer"), ("model", "s.up[0]"), ("model", "s.up[1]"),
        ("momentum", "v"), ("momentum", "s.up[0]"), ("momentum", "s.up[1]"),
    ]  # fmt: skip
    assert found[-1].shape == (4, 5)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ([StateShape("exp_avg", "w[0]", (2,)), StateShape("exp_avg", "v", ())], r"exp_avg w\[0\]: .*\(and 1 more\)"),
        ([StateShape("model", "w[1]", (3,))], r"model w\[1\]: written as \[2\], expected shape \[3\]"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(expected: list[StateShape], message: str) -> None:
    parts = [part(0, [0, 1]), part(1, [2, 3])]
    check_complete(parts, ModelTensors({}, {"w": (4, 2)}), [])
    with pytest.raises(CheckpointError, match=message):
        check_complete(parts, ModelTensors({}, {"w": (4, 2)}), expected)
    with pytest.raises(CheckpointError, match=r"model w\[4\]: no worker wrote it;"):
        check_complete(parts, ModelTensors({}, {"w": (5, 2)}), [])
    with pytest.raises(CheckpointError, match="two workers wrote the same tensor"):
        check_complete([*parts, part(2, [3])], ModelTensors(), [])


def in_pieces(*pieces: tuple[int, int, int]) -> list[CheckpointPart]:
    """(rank, begin, end) of a tensor of 3 x 4."""
    found = []
    for rank, begin, end in pieces:
        state = (StateShape("model", f"t[{begin}:{end}]", (end - begin,)),)
        found.append(CheckpointPart(f"east/{rank}", rank, 1, 20, "step-000020.g1", {}, state))
    return found


TWELVE = ModelTensors({"t": (3, 4)})


def test_pieces_of_several_workers_are_a_tensor() -> None:
    check_complete(in_pieces((1, 4, 8), (0, 0, 4), (0, 8, 12)), TWELVE, [])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (in_pieces((0, 0, 4), (1, 8, 12)), r"t: its piece t\[8:12\] was written, but those before it end at 4"),
        (in_pieces((0, 0, 8), (1, 4, 12)), r"its piece t\[4:12\] was written, but those before it end at 8"),
        (in_pieces((0, 0, 4), (1, 4, 8)), r"model t: its pieces end at 8, but shape \[3, 4\] has 12 elements"),
        (in_pieces((0, 0, 4), (1, 0, 4), (1, 4, 12)), "two workers wrote the same tensor"),
        (in_pieces(), "model t: no worker wrote it"),
    ],
)
def test_pieces_that_are_not_a_tensor_are_refused(parts: list[CheckpointPart], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_complete(parts, TWELVE, [])
