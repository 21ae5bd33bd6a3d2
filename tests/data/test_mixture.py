"""Several sources: each window of a source once in each of its epochs, as much of each as was asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data.samples.marks import IGNORED
from dougong.data.windows import TokenWindows, open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from tests.chats import chat_tokenizer, many, write_chats
from tests.data.test_sources import section_of
from tests.jobs import make_job

LENGTH, MILLION = 8, 10**6
SIZES = (53, 20, 7)
"""Windows of each source."""


def token_files(folder: Path) -> list[str]:
    """A file for each source, in which token i is i, and 1000 more for each source before it."""
    paths = []
    for source, size in enumerate(SIZES):
        paths.append(str(folder / f"{source}.bin"))
        (np.arange(size * LENGTH + 3) + 1000 * source).astype(np.uint16).tofile(paths[-1])
    return paths


def mixed(folder: Path, shares: tuple[float, ...], key: str = "weight", **sections: Any) -> Job:
    data = {"sequence_length": LENGTH, **sections.pop("data", {})}
    pairs = zip(token_files(folder), shares, strict=False)
    data["mixture"] = [{"tokens": path, key: share} for path, share in pairs]
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 2}
    return make_job(data=data, cache=str(folder / "cache"), **{"batch": batch, **sections})


def windows(data: TokenWindows, steps: range) -> list[tuple[int, int]]:
    """(source, window) of what is read, in the order of samples, by the ids."""
    batches = (data.batch(s, lane, m) for s in steps for lane in range(data.lanes) for m in range(data.microbatches))
    rows = [row for batch in batches for row in batch]
    assert all((np.diff(row) == 1).all() for row in rows)
    return [(int(row[0]) // 1000, int(row[0]) % 1000 // LENGTH) for row in rows]


def test_sources_are_read_by_their_weights_each_in_epochs_of_its_own(tmp_path: Path) -> None:
    data = open_data(mixed(tmp_path, (6.0, 2.0, 1.0)), None)
    read = windows(data, range(1, 31))
    counts = Counter(source for source, _ in read)
    assert counts == {0: 240, 1: 80, 2: 40}
    for source, size in enumerate(SIZES):
        mine = [window for one, window in read if one == source]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_any_order_of_asking_and_any_shape_of_the_batch_gives_the_same(tmp_path: Path) -> None:
    job = mixed(tmp_path, (0.7, 0.2, 0.1))
    first, again = open_data(job, None), open_data(job, None)
    late = again.batch(9, 2, 1)
    assert np.array_equal(first.batch(1, 0, 0), again.batch(1, 0, 0)) and np.array_equal(first.batch(9, 2, 1), late)
    one = {"lanes": 1, "microbatches": 1, "microbatch_size": 1}
    assert windows(first, range(1, 4)) == windows(
        open_data(mixed(tmp_path, (0.7, 0.2, 0.1), batch=one), None), range(1, 37)
    )


def test_windows_are_numbered_through_one_source_after_the_other(tmp_path: Path) -> None:
    data = open_data(mixed(tmp_path, (1.0, 1.0, 1.0)), None)
    before = (0, SIZES[0], SIZES[0] + SIZES[1])
    rows = data.batch(4, 2, 1)
    found = [(int(row[0]) // 1000, int(row[0]) % 1000 // LENGTH) for row in rows]
    assert data.windows(4, 2, 1) == [before[source] + window for source, window in found]


def test_a_mixture_of_one_is_that_source(tmp_path: Path) -> None:
    mixture = open_data(mixed(tmp_path, (2.5,)), None)
    plain = make_job(
        data={"tokens": str(tmp_path / "0.bin"), "sequence_length": LENGTH},
        batch={"lanes": 3, "microbatches": 2, "microbatch_size": 2},
    )
    alone = open_data(plain, None)
    assert windows(mixture, range(1, 20)) == windows(alone, range(1, 20)) and mixture.digest() == alone.digest()


def test_another_weight_source_or_order_is_another_digest(tmp_path: Path) -> None:
    jobs = [mixed(tmp_path, shares) for shares in ((1.0, 2.0), (2.0, 1.0), (1.0, 2.0, 1.0), (2.0, 4.0))]
    digests = [open_data(job, None).digest() for job in jobs]
    assert len(set(digests)) == 3 and digests[0] == digests[3]
    (np.arange(20 * LENGTH) + 1001).astype(np.uint16).tofile(tmp_path / "1.bin")
    job = jobs[0].model_copy()
    assert open_data(job, None).digest() not in digests


def test_each_source_holds_out_its_part_and_is_measured_by_itself(tmp_path: Path) -> None:
    validation = {"fraction": 0.4, "every": 1, "batches": 1}
    batch = {"lanes": 2, "microbatches": 1, "microbatch_size": 1}
    data = open_data(mixed(tmp_path, (3.0, 1.0, 1.0), data={"validation": validation}, batch=batch), None)
    assert (data.num_validation_rounds, data.num_validation_batches) == (3, 6)
    held = [row for index in range(6) for row in data.validation_batch(index)]
    assert [int(row[0]) // 1000 for row in held] == [0, 0, 1, 1, 2, 2]
    read = set(windows(data, range(1, 400)))
    assert not read & {(int(row[0]) // 1000, int(row[0]) % 1000 // LENGTH) for row in held}
    assert data.held_out_shares == pytest.approx((0.6, 0.2, 0.2))
    assert (data.num_held_out, len(read)) == (22 + 8 + 3, sum(SIZES) - 33)


def test_what_is_read_of_each_source_is_told(tmp_path: Path) -> None:
    data = open_data(mixed(tmp_path, (30.0, 1.0, 5.0), steps=60), None)
    assert [note.partition(": ")[0] for note in data.remarks.notes] == [f"data.mixture.{n}" for n in range(3)]
    assert data.remarks.notes[0].endswith(
        "53 windows, 0 of them held out; 83.33 % of what is read, 11.32 epochs in 60 steps"
    )
    (warning,) = data.remarks.warnings
    assert warning.startswith("data.mixture.2: ") and "is read 14.3 times over, data.mixture.1 1 times" in warning
    sources = data.describe()["sources"]
    assert isinstance(sources, list) and [source["epochs"] for source in sources] == [11.3208, 1.0, 14.2857]


def test_a_source_of_which_nothing_is_read_and_one_that_a_step_reads_over(tmp_path: Path) -> None:
    data = open_data(mixed(tmp_path, (1.0, 1e-6, 3.0), steps=2), None)
    seldom, often = (warning for warning in data.remarks.warnings if "1.bin is" in warning or "2.bin:" in warning)
    assert "data.mixture.1: not one window of" in f"{seldom}{often}"
    assert "7 windows to train on, but one step reads 9 (lanes x microbatches x microbatch_size x 0.75)" in (
        f"{seldom}{often}"
    )


def test_epochs_share_the_windows_in_proportion_to_what_there_is(tmp_path: Path) -> None:
    data = open_data(mixed(tmp_path, (1.0, 2.0, 4.0), "epochs", steps=10), None)
    assert data.mixture.blend.weights == (53, 40, 28)
    read = Counter(source for source, _ in windows(data, range(1, 11)))
    assert [abs(read[source] - wanted) < 2 for source, wanted in enumerate((52.6, 39.7, 27.8))] == [True] * 3
    assert not data.remarks.warnings
    more = open_data(mixed(tmp_path, (1.0, 2.0, 4.0), "epochs", steps=20), None)
    (warning,) = more.remarks.warnings
    assert warning == (
        "data.mixture: its epochs are 121 windows, but 20 steps read 240, more than that, so each source is read 1.98 "
        "times as often as it says; set steps: 11, or other epochs"
    )
    fewer = open_data(mixed(tmp_path, (1.0, 2.0, 4.0), "epochs", steps=3), None)
    assert "3 steps read 36, fewer than that" in fewer.remarks.warnings[0]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, r"^data.mixture.1: .*/1.bin: byte 0: the file is empty"),
        (5, r"^data.mixture.1: .*/1.bin: 5 tokens give 0 windows of 8, 0 of them held out; at least one must be left"),
    ],
)
def test_a_source_that_is_empty_or_too_small_is_named_by_its_place(size: int, message: str, tmp_path: Path) -> None:
    job = mixed(tmp_path, (1.0, 1.0))
    np.arange(size).astype(np.uint16).tofile(tmp_path / "1.bin")
    with pytest.raises(DataError, match=message):
        open_data(job, None)


def test_an_id_outside_the_vocabulary_and_text_as_ids_are_placed_too(tmp_path: Path) -> None:
    job = mixed(tmp_path, (1.0, 1.0))
    with pytest.raises(DataError, match=r"^data.mixture.1: .*/1.bin: byte 0 \(token 0\): id 1000 is outside"):
        open_data(job, 1000)
    (tmp_path / "1.bin").write_text("This is a text, no ids. " * 20)
    with pytest.raises(DataError, match=r"^data.mixture.1.tokens: .*/1.bin: is text, not token ids"):
        open_data(job, None)


def test_chats_documents_and_plain_streams_lie_in_one_batch(tmp_path: Path) -> None:
    """All of its sequences have labels and positions, whoever they come from."""
    chat_tokenizer(tmp_path / "tokenizer")
    write_chats(tmp_path / "a.jsonl", many(40))
    texts = section_of("text", tmp_path)["text"]
    (tmp_path / "0.txt").write_text("one word after another. " * 200)
    tokenizer = str(tmp_path / "tokenizer")
    mixture = [{"chat": str(tmp_path / "a.jsonl"), "weight": 1.0}, {"text": texts, "weight": 1.0}]

    def opened(**data: Any) -> TokenWindows:
        section = {"mixture": mixture, "tokenizer": tokenizer, "sequence_length": 32, **data}
        return open_data(make_job(data=section, cache=str(tmp_path / "cache")), 320)

    for data in (opened(), opened(packing=True), opened(document_masks=True)):
        batches = [data.microbatch(1, lane, m) for lane in range(2) for m in range(2)]
        has_positions = data.mixture.form.has_positions
        learnt = [int((b.labels[:, 1:] != IGNORED).sum()) for b in batches if b.labels is not None]
        assert sum(learnt) == pytest.approx(batches[0].num_targets * 4)
        assert all((batch.positions is not None) == has_positions for batch in batches)
        rows = [row for batch in batches if batch.labels is not None for row in batch.labels]
        assert len(rows) == 8 and len({int((row != IGNORED).sum()) for row in rows}) > 1
    assert not opened().mixture.form.has_positions and opened(packing=True).mixture.form.has_positions


def test_a_copy_of_a_source_is_refused(tmp_path: Path) -> None:
    job = mixed(tmp_path, (1.0, 1.0))
    (tmp_path / "1.bin").write_bytes((tmp_path / "0.bin").read_bytes())
    with pytest.raises(
        DataError, match=r"data.mixture.1: .*/1.bin: holds the same tokens as data.mixture.0 \(.*/0.bin\), and what one"
    ):
        open_data(job, None)
