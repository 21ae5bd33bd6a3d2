"""A plan's look at the data: too little is found, much is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data.preview import preview_data
from dougong.data.windows import open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.remarks import Remarks
from tests.jobs import make_job


def job(text: Path | str, **data: Any) -> Job:
    return make_job(data={"text": str(text), "sequence_length": 16, **data})


def test_a_text_is_read_only_until_it_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 140)
    (tmp_path / "b.txt").write_bytes(b"x" * 20)
    line, told = preview_data(job(f"{tmp_path}/*.txt"), 256)
    assert line == f"{tmp_path}/*.txt (bytes): 140 tokens and more, enough for the first step"
    assert told == Remarks()


def test_text_that_ends_within_a_step_is_counted_and_warned_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 40)
    asked = job(tmp_path / "a.txt")
    line, told = preview_data(asked, 256)
    name = f"{tmp_path}/a.txt (bytes)"
    assert line == f"{name}: 41 tokens, 2 windows, 0 of them held out; each other is read 12.0 times"
    (warning,) = told.warnings
    assert warning.startswith(f"{name}: 2 windows to train on, but one step reads 8 (lanes x ")
    assert warning.endswith("each 4 times: give more text, or lower batch or data.sequence_length")
    assert open_data(asked, 256, tmp_path / "cache").remarks == told


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sequence_length": 42}, "41 tokens give 0 windows of 42, 0 of them held out; at least one must be left"),
        ({"validation": {"fraction": 0.5, "batches": 1}}, "= 4 are asked for: raise data.validation.fraction"),
    ],
)
def test_too_little_is_said_with_the_numbers(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_text("x" * 40)
    with pytest.raises(DataError, match=message):
        preview_data(job(tmp_path / "a.txt", **data), 256)


def test_no_text_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="there is no text in it"):
        preview_data(job(tmp_path / "a.txt"), 256)


def test_an_id_that_the_model_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\2\1~")
    with pytest.raises(DataError, match=r"a\.txt: token 2: id 126 of the tokenizer bytes"):
        preview_data(job(tmp_path / "a.txt"), 100)


def test_token_files_are_opened_whole(tmp_path: Path) -> None:
    np.arange(170, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    found, _ = preview_data(make_job(data={"tokens": str(tmp_path / "ids.bin"), "sequence_length": 16}), 256)
    assert found == f"{tmp_path}/ids.bin: 170 tokens, 10 windows, 0 of them held out; each other is read 2.4 times"
    with pytest.raises(DataError, match="170 tokens give 0 windows of 200"):
        preview_data(make_job(data={"tokens": str(tmp_path / "ids.bin"), "sequence_length": 200}), 256)


def test_a_mixture_of_texts_and_ids_has_a_line_for_each(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 4000)
    np.arange(170, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    mixture = [{"text": str(tmp_path / "a.txt"), "weight": 3.0}, {"tokens": str(tmp_path / "ids.bin"), "weight": 1.0}]
    line, told = preview_data(make_job(data={"mixture": mixture, "sequence_length": 16}), 256)
    assert line.splitlines() == [
        "",
        f"  data.mixture.0: {tmp_path}/a.txt (bytes): 4,000 tokens and more, enough for the first step; 75 % of what is"
        " read",
        f"  data.mixture.1: {tmp_path}/ids.bin: 170 tokens, 10 windows, 0 of them held out; each other is read 0.6 "
        "times; 25 % of what is read",
    ]
    assert told == Remarks()
    mixture[1]["tokens"] = str(tmp_path / "none.bin")
    with pytest.raises(DataError, match=r"^data.mixture.1: .*none.bin: cannot be opened"):
        preview_data(make_job(data={"mixture": mixture, "sequence_length": 16}), 256)


def test_shares_by_epochs_are_known_where_all_sizes_are(tmp_path: Path) -> None:
    for number, size in enumerate((170, 500)):
        np.arange(size, dtype=np.uint16).tofile(tmp_path / f"{number}.bin")
    mixture = [{"tokens": str(tmp_path / f"{number}.bin"), "epochs": 1.0} for number in range(2)]
    line, told = preview_data(make_job(data={"mixture": mixture, "sequence_length": 16}, steps=5), 512)
    assert line == "2 sources: 670 tokens, 41 windows, 0 of them held out"
    assert told.notes[1].endswith("31 windows, 0 of them held out; 75.61 % of what is read, 0.9677 epochs in 5 steps")
    (tmp_path / "a.txt").write_text("x" * 400)
    mixture.append({"text": str(tmp_path / "a.txt"), "epochs": 1.0})
    line, _ = preview_data(make_job(data={"mixture": mixture, "sequence_length": 16}), 512)
    assert line.splitlines()[3].endswith("a.txt (bytes): 400 tokens and more, enough for the first step")


def test_of_epochs_nothing_is_said_that_is_not_known_before_all_text_is_tokenised(tmp_path: Path) -> None:
    """Each source had been taken for the whole job, and warned of."""
    (tmp_path / "a.txt").write_text("x" * 4000)
    (tmp_path / "b.txt").write_text("y" * 40)
    np.arange(40, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    mixture = [{"text": f"{tmp_path}/{name}.txt", "epochs": 1.0} for name in "ab"]
    mixture.append({"tokens": str(tmp_path / "ids.bin"), "epochs": 1.0})
    asked = make_job(data={"mixture": mixture, "sequence_length": 16}, steps=32, cache=str(tmp_path / "cache"))
    line, told = preview_data(asked, 256)
    unknown = "2 windows, 0 of them held out; how often each other is read is known when all text is tokenised"
    assert " tokens and more, enough for the first step" in line.splitlines()[1]
    assert [one.endswith(unknown) for one in line.splitlines()[2:]] == [True, True]
    assert told == Remarks() and not open_data(asked, 256).remarks.warnings
