"""A text that holds the token of an image is found before the run, with its file, wherever it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from dougong.data.preview import preview_data
from dougong.data.windows import open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from tests.chats import many
from tests.data.chats.test_images import VOCAB, job_of
from tests.pictures import image_token, look

PLAIN = "no image is here " * 40


def mixed(folder: Path, source: dict[str, str]) -> Job:
    """Chats with images beside a source without."""
    job = job_of(folder)
    values = job.model_dump(exclude_defaults=True)
    sources = [{"chat": job.data.chat, "weight": 1}, {**source, "weight": 1}]
    data = {"mixture": sources, "tokenizer": job.data.tokenizer, "sequence_length": 96}
    return Job.model_validate({**values, "data": data})


def test_one_text_among_many_is_named_with_its_place(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(PLAIN)
    job = mixed(tmp_path, {"text": str(tmp_path / "*.txt")})
    assert open_data(job, VOCAB).num_windows > 4
    (tmp_path / "2.txt").write_text(PLAIN + "it is <|image_pad|> in a text" + PLAIN)
    told = re.escape(f"{tmp_path}/2.txt: byte {len(PLAIN) + 6}: a text holds <|image_pad|> (")
    with pytest.raises(DataError, match=rf"^data.mixture.1: .*{told}\d+\), which stands for .* take it out of"):
        open_data(job, VOCAB)


def test_a_plan_finds_it_in_texts_that_are_not_tokenised(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(PLAIN * 20 + ("<|image_pad|>" if number == 3 else ""))
    job = mixed(tmp_path, {"text": str(tmp_path / "*.txt")})
    with pytest.raises(DataError, match=rf"^data.mixture.1: .*3.txt: byte {20 * len(PLAIN)}: a text holds"):
        preview_data(job, VOCAB)
    blind = [look("what"), *many(6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in blind))
    assert "enough for the first step" in preview_data(job, VOCAB)[0]


def test_a_name_that_two_blocks_share_is_found(tmp_path: Path) -> None:
    whole = ("a" * 1023 + " ") * 256
    (tmp_path / "0.txt").write_text(whole[:-5] + "<|image_pad|>" + PLAIN)
    with pytest.raises(DataError, match=f"0.txt: byte {len(whole) - 5}: a text holds"):
        open_data(mixed(tmp_path, {"text": str(tmp_path / "0.txt")}), VOCAB)


def test_ids_are_named_by_their_file_and_number(tmp_path: Path) -> None:
    ids = np.full(960, 65, dtype=np.uint16)
    ids.tofile(tmp_path / "ids.bin")
    job = mixed(tmp_path, {"tokens": str(tmp_path / "ids.bin")})
    assert open_data(job, VOCAB).num_windows == 14
    ids[700] = image_token(tmp_path / "tokenizer")
    ids.tofile(tmp_path / "ids.bin")
    with pytest.raises(DataError, match=rf"token 700 of {tmp_path}/ids.bin: a text holds <\|image_pad\|>"):
        open_data(job, VOCAB)
