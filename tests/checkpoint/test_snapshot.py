"""A worker's saves: isolated from training, durable before they are reported, loud when they fail."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint import snapshot
from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.reader import CheckpointReader
from dougong.checkpoint.repository import commit, newest_valid, verify
from dougong.checkpoint.snapshot import Saver, StateTensor
from dougong.deadlines import Deadlines
from dougong.errors import CheckpointError, ModelError, NumericsError, PeerError
from tests.checkpoint.crash import join, start_dying
from tests.checkpoint.saving import State, names_of, saver_of, share, state_of, tiny_model

Part = CheckpointPart


@pytest.fixture(scope="module")
def names() -> Names:
    return names_of(tiny_model("gpt_oss", num_hidden_layers=2))


@pytest.fixture
def state(names: Names) -> State:
    return state_of(tiny_model("gpt_oss", num_hidden_layers=2), names)


def assert_holds(directory: Path, names: Names, state: State) -> None:
    with CheckpointReader(directory, names) as reader:
        for (group, name), tensor in state.items():
            assert torch.equal(reader.read(group, name), tensor), name


def test_what_is_staged_is_what_is_written(
    names: Names, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer thread begins only after every tensor has been changed, as a fast step would change it."""
    changed = threading.Event()
    digest = snapshot.digest

    def late(data: Any) -> str:
        assert changed.wait(60)
        return digest(data)

    monkeypatch.setattr(snapshot, "digest", late)
    before = {key: tensor.clone() for key, tensor in state.items()}
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    saver.stage(20, share(state, 0, 1))
    for tensor in state.values():
        tensor.add_(1)
    assert parts == []
    changed.set()
    saver.wait()
    assert_holds(commit(tmp_path, 20, 1, parts), names, before)


def test_the_next_save_reuses_memory_and_leaves_the_last_one_alone(
    names: Names, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[Any] = []
    empty = torch.empty

    def counted(*shape: Any, **options: Any) -> torch.Tensor:
        allocated.append(shape)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", counted)
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    saver.stage(20, share(state, 0, 1))
    saver.wait()
    assert len(allocated) >= len(state)
    allocated.clear()
    before = {key: tensor.clone() for key, tensor in state.items()}
    for tensor in state.values():
        tensor.mul_(2)
    saver.stage(40, share(state, 0, 1))
    saver.wait()
    assert allocated == []
    assert_holds(commit(tmp_path, 20, 1, parts[:1]), names, before)
    assert_holds(commit(tmp_path, 40, 1, parts[1:]), names, state)


def test_views_and_strides_are_written_as_their_values(names: Names, state: State, tmp_path: Path) -> None:
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    name, shape = next((name, shape) for name, shape in names.tensors() if len(shape) == 2)
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).view(shape[::-1]).t()
    model = [StateTensor("model", key[1], value) for key, value in state.items() if key[0] == "model"]
    optimizer = [StateTensor("exp_avg", name, tensor), StateTensor("step", name, torch.tensor(2.5))]
    saver.stage(20, model + optimizer)
    saver.wait()
    directory = commit(tmp_path, 20, 1, parts)
    with CheckpointReader(directory) as reader:
        assert torch.equal(reader.read("exp_avg", name), tensor)
        assert reader.read("step", name).item() == 2.5


def test_a_part_is_plain_json_and_says_where_everything_lies(names: Names, state: State, tmp_path: Path) -> None:
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    saver.stage(20, share(state, 0, 1))
    saver.wait()
    (part,) = parts
    assert CheckpointPart.from_json(json.loads(json.dumps(part.to_json()))) == part
    assert (part.worker, part.step, part.generation, part.directory) == (
        "east/0",
        20,
        1,
        "step-000020.g1",
    )
    assert len(part.state) == len(state)


def test_a_worker_that_owns_nothing_still_has_its_part(names: Names, state: State, tmp_path: Path) -> None:
    parts: list[Part] = []
    for rank in range(2):
        saver = saver_of(tmp_path, names, parts.append, rank)
        saver.stage(20, share(state, 0, 1) if rank == 0 else [])
        saver.wait()
    assert verify(commit(tmp_path, 20, 1, parts)).ok


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_master_weights_are_float32(dtype: torch.dtype, names: Names, tmp_path: Path) -> None:
    saver = saver_of(tmp_path, names, [].append)
    with pytest.raises(
        CheckpointError, match=r"model model\.norm\.weight: torch\.\w+, but the state is kept in float32"
    ):
        saver.stage(20, [StateTensor("model", "model.norm.weight", torch.zeros(64, dtype=dtype))])
    with pytest.raises(ModelError, match="no such tensor"):
        saver.stage(20, [StateTensor("model", "nothing", torch.zeros(64))])


def test_one_step_of_one_generation_is_written_once(names: Names, state: State, tmp_path: Path) -> None:
    told: list[str] = []
    saver = saver_of(tmp_path, names, [].append, on_failed=lambda step, reason: told.append(reason))
    for _ in range(2):
        saver.wait()
        saver.stage(20, share(state, 0, 1))
    assert saver.wait()
    assert len(told) == 1 and "never written twice" in told[0]


def test_a_save_that_hangs_holds_training_up_once_and_not_longer_than_its_deadline(
    names: Names, tmp_path: Path
) -> None:
    """Saves are left out until it answers; then training is saved again."""
    release, told = threading.Event(), list[tuple[int, str]]()
    saver = saver_of(
        tmp_path,
        names,
        lambda _: assert_true(release.wait(60)),
        timeout_s=0.1,
        on_failed=lambda *failed: told.append(failed),
    )
    item = StateTensor("exp_avg", "x", torch.zeros(2))
    assert saver.stage(20, [item])
    assert not saver.stage(40, [item])
    assert not saver.stage(60, [item])
    words = r"the save before it is still .* after more than 0.1 s \(fault\.deadlines\.stage_checkpoint_s\)"
    assert [step for step, _ in told] == [40, 60] and re.search(words, told[0][1])
    release.set()
    join_writer("checkpoint-20")
    assert saver.stage(80, [item])


def test_a_last_save_that_storage_refuses_is_tried_until_it_is_taken(
    names: Names, state: State, tmp_path: Path
) -> None:
    shared = tmp_path / "pending/step-000020.g1/model/experts-00000.safetensors"
    shared.parent.mkdir(parents=True)
    shared.symlink_to("/dev/full")
    parts, told = list[Part](), list[str]()

    def mend(step: int, reason: str) -> None:
        told.append(reason)
        shared.unlink(missing_ok=True)

    saver = saver_of(tmp_path, names, parts.append, on_failed=mend)
    saver.stage(20, share(state, 0, 1))
    saver.finish(lambda: None)
    assert len(told) == 1 and "no space left" in told[0]
    assert_holds(commit(tmp_path, 20, 1, parts), names, state)


def test_a_last_save_is_given_up_at_its_deadline(names: Names, tmp_path: Path) -> None:
    release, told, beats = threading.Event(), list[str](), list[int]()
    limits = Deadlines(commit_checkpoint_s=0.1, storage_retry_s=0.02)
    saver = Saver(
        tmp_path,
        PartWriter("east/0", 0, 1),
        lambda _: assert_true(release.wait(60)),
        lambda step, reason: told.append(reason),
        names,
        limits,
    )
    saver.stage(20, [StateTensor("exp_avg", "x", torch.zeros(2))])
    saver.finish(lambda: beats.append(1))
    assert told == ["it is still being written after 0.1 s (fault.deadlines.commit_checkpoint_s)"]
    assert beats
    release.set()


def join_writer(name: str) -> None:
    """Wait for a save's thread apart from the saver, whose deadline is short."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)


def assert_true(value: bool) -> None:
    assert value


def test_a_save_that_hangs_is_abandoned_with_its_generation(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it is let go at once, and nobody hears of it when the storage wakes up."""
    wakes, parts, digest = threading.Event(), list[Part](), snapshot.digest

    def hang(data: Any) -> str:
        assert wakes.wait(60)
        return digest(data)

    monkeypatch.setattr(snapshot, "digest", hang)
    saver = saver_of(tmp_path, names, parts.append)
    item = StateTensor("exp_avg", "x", torch.zeros(2))
    saver.stage(20, [item])
    waiter = ThreadPoolExecutor(1).submit(saver.wait)
    saver.abandon()
    with pytest.raises(PeerError, match="east/0: its generation is over"):
        waiter.result(30)
    with pytest.raises(PeerError):
        saver.stage(40, [item])
    wakes.set()
    join_writer("checkpoint-20")
    assert not parts


def test_an_error_of_the_report_reaches_training_once(names: Names, tmp_path: Path) -> None:
    def refuse(part: Part) -> None:
        raise ConnectionError(f"no controller for step {part.step}")

    saver = saver_of(tmp_path, names, refuse)
    saver.stage(20, [StateTensor("exp_avg", "x", torch.zeros(2))])
    with pytest.raises(ConnectionError, match="no controller for step 20"):
        saver.stage(40, [StateTensor("exp_avg", "x", torch.zeros(2))])
    saver.wait()


def test_storage_that_changes_a_bit_is_caught_before_the_part_is_sent(
    names: Names, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(fd: int) -> None:
        os.fsync(fd)
        size = os.fstat(fd).st_size
        byte = os.pread(fd, 1, size - 1)[0]
        os.pwrite(fd, bytes([byte ^ 1]), size - 1)

    monkeypatch.setattr(snapshot, "sync_file", damaging)
    parts, told = list[Part](), list[str]()
    saver = saver_of(tmp_path, names, parts.append, on_failed=lambda step, reason: told.append(reason))
    saver.stage(20, share(state, 0, 1))
    assert saver.wait() and parts == []
    assert re.search(r"safetensors: .*: reads back as \w+, written as \w+; the storage is bad", told[0])


def test_a_full_device_is_a_clear_error(names: Names, state: State, tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    shared = tmp_path / "pending/step-000020.g1/model/experts-00000.safetensors"
    shared.parent.mkdir(parents=True)
    shared.symlink_to("/dev/full")
    parts, told = list[Part](), list[str]()
    saver = saver_of(tmp_path, names, parts.append, on_failed=lambda step, reason: told.append(reason))
    saver.stage(20, share(state, 0, 1))
    assert saver.wait() and parts == []
    assert re.search(r"experts-00000\.safetensors: no space left .*checkpoint\.keep", told[0])


@pytest.fixture
def small_storage(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "dougong-test", str(path)], check=True, timeout=30)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; the test above does without")
def test_a_full_file_system_leaves_no_checkpoint_and_training_can_go_on(
    small_storage: Path, names: Names, state: State
) -> None:
    parts, told = list[Part](), list[str]()
    saver = saver_of(small_storage, names, parts.append, on_failed=lambda step, reason: told.append(reason))
    saver.stage(20, share(state, 0, 1))
    assert saver.wait()
    assert re.search(r"no space left to write a checkpoint \(\d+ bytes free\)", told[0])
    assert (parts, newest_valid(small_storage)) == ([], None)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_storage)], check=True, timeout=30)
    saver.stage(40, share(state, 0, 1))
    saver.wait()
    assert_holds(commit(small_storage, 40, 1, parts), names, state)


def save_share(root: Path, names: Names, state: State, rank: int, mail: Path) -> None:
    """One worker process: its part reaches the controller as a file that appears whole."""

    def report(part: Part) -> None:
        unfinished = mail / f".{rank}"
        unfinished.write_text(json.dumps(part.to_json()))
        unfinished.rename(mail / f"{rank}.json")

    saver = saver_of(root, names, report, rank)
    saver.stage(20, share(state, rank, 2))
    saver.wait()


def test_two_processes_write_one_checkpoint_and_one_may_be_killed_at_any_call(
    names: Names, state: State, tmp_path: Path
) -> None:
    codes = []
    for at_call in (1, 2, 4, 8, 16, 32, 64, 128, 256, 10**9):
        root, mail = tmp_path / f"root{at_call}", tmp_path / f"mail{at_call}"
        mail.mkdir()
        children = [
            start_dying(
                lambda rank=rank, root=root, mail=mail: save_share(root, names, state, rank, mail),
                at_call if rank == 1 else 10**9,
            )
            for rank in range(2)
        ]
        codes.append([join(child) for child in children])
        parts = [CheckpointPart.from_json(json.loads(path.read_text())) for path in sorted(mail.glob("*.json"))]
        assert newest_valid(root) is None
        if len(parts) == 2:
            assert_holds(commit(root, 20, 1, parts), names, state)
            continue
        assert codes[-1] == [0, -9]
        with pytest.raises(CheckpointError):
            commit(root, 20, 1, parts)
        assert list_committed(root) == []
    assert codes[0] == [0, -9]
    assert codes[4] == [0, -9]
    assert codes[-1] == [0, 0]


@pytest.mark.parametrize("key", [("model", "model.norm.weight"), ("exp_avg_sq", "model.norm.weight")])
def test_a_state_that_is_not_finite_becomes_no_checkpoint(
    names: Names, state: State, tmp_path: Path, key: tuple[str, str]
) -> None:
    """An update may be too large although the step's loss and gradient were finite."""
    state[key] = state[key].clone()
    state[key][3] = float("inf")
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    saver.stage(20, share(state, 0, 1))
    with pytest.raises(NumericsError, match="checkpoint step-000020.g1: .*model.norm.weight holds 1 value") as error:
        saver.wait()
    assert ("exp_avg_sq of" in str(error.value)) == (key[0] == "exp_avg_sq") and not parts


def test_staging_memory_is_there_before_the_first_save_and_holds_nothing_of_what_it_was_taken_for(
    names: Names, state: State, tmp_path: Path
) -> None:
    parts: list[Part] = []
    saver = saver_of(tmp_path, names, parts.append)
    before = share(state, 0, 1)
    saver.reserve(before)
    saver.stage(20, [StateTensor(item.group, item.name, item.tensor + 1.0) for item in before])
    saver.wait()
    assert saver.write_s > 0.0
    directory = commit(tmp_path, 20, 1, parts)
    with CheckpointReader(directory, names) as reader:
        for item in before:
            assert torch.equal(reader.read(item.group, item.name), item.tensor + 1.0)
