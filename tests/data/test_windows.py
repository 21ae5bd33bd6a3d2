"""Batches: every window once an epoch, whoever reads it; held-out windows never trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data.sources import vocabulary
from dougong.data.windows import TokenWindows, open_data
from dougong.errors import DataError
from dougong.job.schema import Job

LENGTH = 8


def make_job(path: Path, **sections: Any) -> Job:
    """A job over a token file at `path`; `sections` replace or add top-level keys."""
    data = {"tokens": str(path), "sequence_length": LENGTH} | sections.pop("data", {})
    base: dict[str, Any] = {
        "job": "t",
        "model": {"family": "qwen3_moe"},
        "data": data,
        "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 2},
        "steps": 10,
        "seed": 5,
        "islands": [{"name": "east", "accelerator": "cpu"}],
    }
    return Job.model_validate(base | sections)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A token file of 53 windows and a rest, in which token i is i."""
    file = tmp_path / "tokens.bin"
    np.arange(53 * LENGTH + 3, dtype=np.uint16).tofile(file)
    return file


def windows(data: TokenWindows, steps: range) -> list[int]:
    """Which windows are read, in the order of samples."""
    batches = (data.batch(s, lane, m) for s in steps for lane in range(data.lanes) for m in range(data.microbatches))
    return [window_of(row) for batch in batches for row in batch]


def window_of(row: np.ndarray) -> int:
    assert np.array_equal(row, np.arange(row[0], row[0] + LENGTH))
    assert row[0] % LENGTH == 0
    return int(row[0]) // LENGTH


def test_a_batch_has_the_promised_form(path: Path) -> None:
    batch = open_data(make_job(path), 1000).batch(1, 2, 1)
    assert (batch.shape, batch.dtype) == ((2, LENGTH), np.int64)


def test_each_epoch_reads_every_window_once_in_its_own_order(path: Path) -> None:
    data = open_data(make_job(path, batch={"lanes": 1, "microbatches": 1, "microbatch_size": 1}), None)
    epochs = [windows(data, range(1 + 53 * e, 1 + 53 * (e + 1))) for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(53))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_epoch_may_end_inside_a_batch(path: Path) -> None:
    data = open_data(make_job(path), None)
    read = windows(data, range(1, 54))
    assert [read.count(window) for window in range(53)] == [12] * 53
    assert sorted(read[:53]) == list(range(53))


def test_samples_are_numbered_by_step_lane_microbatch_row(path: Path) -> None:
    wide = open_data(make_job(path, batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2}), None)
    one = open_data(make_job(path, batch={"lanes": 1, "microbatches": 1, "microbatch_size": 1}), None)
    assert windows(wide, range(1, 4)) == windows(one, range(1, 37))


def test_samples_and_windows_of_a_step_are_known_by_number(path: Path) -> None:
    data = open_data(make_job(path), None)
    assert data.samples(1) == (0, 11) and data.samples(4) == (36, 47)
    for lane, microbatch in ((0, 0), (2, 1)):
        assert data.windows(4, lane, microbatch) == [window_of(row) for row in data.batch(4, lane, microbatch)]


def test_batches_are_a_function_of_the_job_alone(path: Path) -> None:
    first, again = open_data(make_job(path), None), open_data(make_job(path), None)
    late = again.batch(9, 2, 0)
    assert np.array_equal(first.batch(1, 0, 0), again.batch(1, 0, 0))
    assert np.array_equal(first.batch(9, 2, 0), late)


def test_another_seed_is_another_order(path: Path) -> None:
    orders = [windows(open_data(make_job(path, seed=seed), None), range(1, 4)) for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_held_out_windows_are_never_trained_on(path: Path) -> None:
    job = make_job(path, data={"validation": {"fraction": 0.25, "every": 1, "batches": 2}})
    data = open_data(job, None)
    assert (data.num_held_out, data.num_train, data.num_validation_batches) == (14, 39, 6)
    held = [window_of(row) for index in range(6) for row in data.validation_batch(index)]
    assert len(set(held)) == 12
    trained = windows(data, range(1, 14))
    assert not set(held) & set(trained)
    assert sorted(trained[:39]) == sorted(set(trained))


def test_held_out_windows_do_not_follow_the_seed(path: Path) -> None:
    validation = {"validation": {"fraction": 0.25, "every": 1, "batches": 2}}
    first, second = (open_data(make_job(path, data=validation, seed=seed), None) for seed in (1, 2))
    assert np.array_equal(first.validation_batch(3), second.validation_batch(3))


@pytest.mark.parametrize(("step", "lane", "microbatch"), [(0, 0, 0), (1, 3, 0), (1, -1, 0), (1, 0, 2)])
def test_a_batch_outside_the_job_is_our_mistake(path: Path, step: int, lane: int, microbatch: int) -> None:
    with pytest.raises(AssertionError):
        open_data(make_job(path), None).batch(step, lane, microbatch)


def test_a_validation_batch_needs_validation(path: Path) -> None:
    with pytest.raises(AssertionError, match="validation batch 0 of 0"):
        open_data(make_job(path), None).validation_batch(0)


def test_an_id_outside_the_vocabulary_is_refused_at_once(path: Path) -> None:
    with pytest.raises(DataError, match=r"tokens\.bin: byte 200 \(token 100\): id 100 is outside"):
        open_data(make_job(path), 100)


def test_in_a_long_file_it_is_refused_when_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.data.windows.WHOLE_TOKENS", 10)
    data = open_data(make_job(path), 53 * LENGTH - 1)
    with pytest.raises(DataError, match=r"byte 846 \(token 423\): id 423 is outside"):
        windows(data, range(1, 6))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sequence_length": 500}, "427 tokens give 0 windows of 500, 0 of them held out; at least one"),
        (
            {"sequence_length": 400, "validation": {"fraction": 0.5, "every": 1, "batches": 1}},
            "427 tokens give 1 windows of 400, 1 of them held out; at least one must be left",
        ),
        (
            {"validation": {"fraction": 0.1, "every": 1, "batches": 4}},
            "53 windows of 8, 6 of them held out; .* = 24 are asked for: raise data.validation.fraction",
        ),
    ],
)
def test_too_few_tokens(path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(make_job(path, data=data), None)


def test_digest_follows_the_tokens_and_how_they_are_cut(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    np.arange(1, 53 * LENGTH + 4, dtype=np.uint16).tofile(other)
    jobs = [
        make_job(path),
        make_job(other),
        make_job(path, data={"sequence_length": 4}),
        make_job(path, data={"validation": {"fraction": 0.5, "every": 1, "batches": 1}}),
    ]
    assert len({open_data(job, None).digest() for job in jobs}) == 4
    assert open_data(make_job(path, seed=9, steps=99), None).digest() == open_data(jobs[0], None).digest()


def test_describe(path: Path) -> None:
    data = open_data(make_job(path), None)
    described = data.describe()
    assert described == {
        "name": str(path),
        "tokens": 427,
        "windows": 53,
        "held_out": 0,
        "epochs": round(120 / 53, 4),
        "digest": data.digest(),
    }


def test_text_by_bytes_reads_back(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    data = {"tokens": None, "text": str(tmp_path / "a.txt"), "tokenizer": "bytes"}
    opened = open_data(make_job(tmp_path, data=data), 256, tmp_path / "cache")
    for row in opened.batch(1, 0, 0):
        assert bytes(row.tolist()).decode() in text + "\0"


@pytest.mark.parametrize(
    ("data", "ids"), [({"text": "stdlib", "tokenizer": "bytes"}, 256), ({"tokens": "x.bin"}, None)]
)
def test_vocabulary_is_known_without_the_data(tmp_path: Path, data: dict[str, Any], ids: int | None) -> None:
    job = make_job(tmp_path, data={"tokens": None} | data)
    assert vocabulary(job) == ids
