"""Images of sequences: ids and pixels as the family's own processor makes them, and unchanged when they are read."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data.chats.image_processor import PROCESSOR_FILES
from dougong.data.chats.images import side_by_side
from dougong.data.chats.store import Marks
from dougong.data.samples.image_batch import ImageBatch
from dougong.data.windows import TokenWindows, open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from tests.chats import many, row, write_chats
from tests.data.processors import processor_of
from tests.jobs import make_job
from tests.pictures import PROCESSORS, WITH_IMAGES, look, picture, seeing_folder, seeing_model

VOCAB = 330
ROWS = [look("what is", "0.png", "?"), row("say", "it"), look("0.png", "and", "1.png", "?"), look("1.png", "?")]


def job_of(
    folder: Path, rows: Any = ROWS, family: str = "qwen3_vl_moe", length: int = 96, template: str = WITH_IMAGES
) -> Job:
    tokenizer = seeing_folder(folder / "tokenizer", family, template)
    for number in range(2):
        if not (folder / f"{number}.png").exists():
            picture(folder / f"{number}.png", 24 + 8 * number, seed=number)
    write_chats(folder / "a.jsonl", rows)
    data = {"chat": str(folder / "a.jsonl"), "tokenizer": str(tokenizer), "sequence_length": length}
    model = seeing_model(family, folder / "model", tokenizer, VOCAB)
    return make_job(model=model, data=data, cache=str(folder / "cache"))


def opened(folder: Path, *given: Any, **more: Any) -> TokenWindows:
    return open_data(job_of(folder, *given, **more), VOCAB)


def marks_of(data: TokenWindows) -> Marks:
    marks = data.mixture.sources[0].marks
    assert isinstance(marks, Marks)
    return marks


def ids_of(data: TokenWindows, window: int) -> np.ndarray:
    (source,) = data.mixture.sources
    return source.tokens.read(window * source.sequence_length, source.sequence_length)


def images_of(data: TokenWindows, *windows: int) -> tuple[np.ndarray, ImageBatch]:
    """The ids of these sequences, and their images."""
    ids = np.stack([ids_of(data, window) for window in windows])
    found = marks_of(data).images_of(ids, np.array(windows))
    assert found is not None
    return ids, found


@pytest.mark.parametrize("family", PROCESSORS)
def test_ids_and_pixels_are_those_of_the_familys_processor(family: str, tmp_path: Path) -> None:
    data = opened(tmp_path, family=family)
    processor = processor_of(family, tmp_path / "tokenizer")
    for window in (0, 2, 3):
        messages = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[window])["messages"]
        for part in messages[0]["content"]:
            if part["type"] == "image":
                part["image"] = str(tmp_path / part["image"])
        theirs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="np")
        ids, found = images_of(data, window)
        count = theirs["input_ids"].shape[1]
        assert ids[:, :count].tolist() == theirs["input_ids"].tolist() and not found.kinds[:, count:].any()
        assert found.kinds[:, :count].tolist() == theirs["mm_token_type_ids"].tolist()
        assert np.array_equal(found.pixels, theirs["pixel_values"])
        assert found.grids.tolist() == theirs["image_grid_thw"].tolist()


def test_several_sequences_have_their_images_in_order(tmp_path: Path) -> None:
    data = opened(tmp_path)
    _, both = images_of(data, 2, 1, 0)
    _, one = images_of(data, 2)
    _, other = images_of(data, 0)
    assert np.array_equal(both.pixels, np.concatenate([one.pixels, other.pixels])) and len(both.grids) == 3
    assert marks_of(data).images_of(np.zeros((1, 96), dtype=np.int64), np.array([1])) is None


def test_no_token_of_an_image_is_learnt(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "see"}, {"type": "image", "image": "0.png"}]}
    data = opened(tmp_path, [{"messages": [{"role": "user", "content": "show"}, answer]}])
    ids, found = images_of(data, 0)
    labels, _ = marks_of(data).labels_and_positions(ids, np.array([0]))
    assert found.kinds.sum() > 3 and (labels[found.kinds == 1] == -100).all() and (labels != -100).sum() > 3


def test_images_are_counted_and_a_long_chat_is_cut_before_one(tmp_path: Path) -> None:
    data = opened(tmp_path)
    (note,) = data.remarks.notes
    _, all_images = images_of(data, 0, 1, 2, 3)
    sizes = all_images.grids.prod(axis=1) // 4
    told = f"{sizes.sum()} of the tokens, from {sizes.min()} to {sizes.max()} each (what the tower takes"
    assert f"; 4 images, which are {told}" in note and sizes.sum() == all_images.kinds.sum()


def test_a_chat_that_is_too_long_is_cut_before_the_image_that_does_not_fit(tmp_path: Path) -> None:
    long = {"messages": [*row("c", "d")["messages"], *look("0.png")["messages"]]}
    whole, found = images_of(opened(tmp_path, [long]), 0)
    first, last = np.flatnonzero(found.kinds[0])[[0, -1]].tolist()
    for length, kept, num_images in ((last + 1, last + 1, 1), (last, first, 0), (first + 1, first, 0)):
        cut = opened(tmp_path, [long], length=length)
        warning = cut.remarks.warnings[0]
        assert f"1 of 1 chats are longer than data.sequence_length {length} and cut there (the first:" in warning
        images = marks_of(cut).images
        assert images is not None and images.count == num_images
        assert ("of all) and 1 images are lost so" in warning) == (num_images == 0)
        ids = ids_of(cut, 0).tolist()
        assert ids[:kept] == whole[0, :kept].tolist() and len(set(ids[kept:])) <= 1


def test_an_image_that_changed_is_another_data_and_is_not_learnt(tmp_path: Path) -> None:
    data = opened(tmp_path)
    picture(tmp_path / "1.png", 32, seed=9)
    with pytest.raises(DataError, match=r"a.jsonl: line 3: messages\[0\].content\[2\]: .*1.png: has changed since"):
        images_of(data, 2)
    other = opened(tmp_path)
    assert other.digest() != data.digest()
    picture(tmp_path / "1.png", 32, seed=1)
    assert opened(tmp_path).digest() == data.digest()


def test_one_that_is_gone_when_it_is_read_is_named(tmp_path: Path) -> None:
    data = opened(tmp_path)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"a.jsonl: line 1: .*0.png: cannot be opened"):
        images_of(data, 0)


def test_other_pixels_of_the_same_file_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of a library may decode or resize otherwise."""
    data = opened(tmp_path)
    images = marks_of(data).images
    assert images is not None
    model = images.form.processor.model
    monkeypatch.setattr(model, "image_mean", (0.5, 0.5, 0.5))
    with pytest.raises(DataError, match=r"0.png: gives other pixels here .* pillow, numpy and transformers"):
        images_of(data, 0)


def test_chats_that_were_moved_find_their_images_where_they_are_now(tmp_path: Path) -> None:
    digest = opened(tmp_path / "a").digest()
    (tmp_path / "a/cache").rename(tmp_path / "cache")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "cache").rename(tmp_path / "b/cache")
    moved = opened(tmp_path / "b")
    assert moved.digest() == digest and len(images_of(moved, 0)[1].grids) == 1


def test_settings_of_the_processor_are_part_of_the_data(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    digest = open_data(job, VOCAB).digest()
    file = tmp_path / "tokenizer" / PROCESSOR_FILES[0]
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    assert open_data(job, VOCAB).digest() != digest
    assert opened(tmp_path).digest() == digest


def test_images_that_the_template_does_not_render_are_refused_with_the_row(tmp_path: Path) -> None:
    blind = WITH_IMAGES.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    with pytest.raises(DataError, match=r"a.jsonl: line 1: rendered it has 0 <\|image_pad\|> \(\d+\) for 1 images"):
        opened(tmp_path, template=blind)
    with pytest.raises(DataError, match=r"a.jsonl: line 2: rendered it has 2 .* for 1 images: .* no text may hold it"):
        opened(tmp_path, [ROWS[1], look("0.png", "what is <|image_pad|>")])
    bare = WITH_IMAGES.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
    with pytest.raises(DataError, match=r"a.jsonl: line 1: .*renders two images with nothing between them"):
        opened(tmp_path, [look("0.png", "1.png")], template=bare)


@pytest.mark.parametrize("name", ["<|image_pad|>", "<|video_pad|>"])
def test_a_text_that_holds_the_token_of_an_image_is_refused_with_its_row_whatever_lies_beside_it(
    name: str, tmp_path: Path
) -> None:
    bad = row(f"what is {name}", "that")
    told = (
        rf"a.jsonl: line 2: a text of it holds {re.escape(name)} \(\d+\), which stands for .* take it out of the text"
    )
    for number, good in enumerate((ROWS[0], ROWS[1])):
        with pytest.raises(DataError, match=told):
            opened(tmp_path / str(number), [good, bad])


def test_what_a_model_of_text_has_kept_of_such_chats_is_not_taken(tmp_path: Path) -> None:
    job = job_of(tmp_path, [row("what is <|image_pad|>", "that"), *many(3)])
    blind = make_job(data=job.data.model_dump(exclude_defaults=True), cache=job.cache)
    assert open_data(blind, VOCAB).num_windows == 4
    with pytest.raises(DataError, match="a.jsonl: line 1: a text of it holds"):
        open_data(job, VOCAB)


def test_text_chats_of_a_model_that_sees_have_no_images(tmp_path: Path) -> None:
    data = opened(tmp_path, many(4))
    assert marks_of(data).images is None and "images" not in data.remarks.notes[0]


def test_work_side_by_side_keeps_its_order_and_tells_its_first_error() -> None:
    both = threading.Barrier(2, timeout=30)
    assert side_by_side(lambda number: (both.wait() >= 0, number * 2)[1], [1, 2]) == [2, 4]
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda number: 1 // number, [1, 0, 2])


def mixture_of(folder: Path, texts: str) -> Job:
    """Two files of chats with images, and text between them."""
    job = job_of(folder)
    write_chats(folder / "b.jsonl", [look("1.png", "or", "0.png"), row("a", "b")] * 4)
    (folder / "t.txt").write_text(texts)
    sources = [{"chat": str(folder / "a.jsonl")}, {"text": str(folder / "t.txt")}, {"chat": str(folder / "b.jsonl")}]
    data = {
        "mixture": [{**source, "weight": 1.0} for source in sources],
        "tokenizer": job.data.tokenizer,
        "sequence_length": 96,
    }
    values = job.model_dump(exclude_defaults=True)
    return Job.model_validate({**values, "data": data, "batch": {"lanes": 1, "microbatch_size": 6}, "steps": 4})


def test_sources_of_a_mixture_have_their_images_in_the_order_of_its_sequences(tmp_path: Path) -> None:
    data, seen = open_data(mixture_of(tmp_path, "no image here " * 200), VOCAB), []
    for step in range(1, 5):
        batch = data.microbatch(step, 0, 0)
        assert batch.images is not None
        by_row = [data.mixture.read(np.array([sample])).images for sample in range(*(6 * (step - 1), 6 * step))]
        expected = [one.pixels for one in by_row if one is not None]
        assert np.array_equal(batch.images.pixels, np.concatenate(expected))
        seen.append(len(expected))
        assert [len(images) for images in batch.images.rows] == [len(one.rows[0]) if one else 0 for one in by_row]
        tokens = batch.images.kinds.sum(axis=1).tolist()
        assert tokens == [int(one.kinds.sum()) if one else 0 for one in by_row]
        assert batch.images.kinds.tolist() == (batch.ids == batch.images.token).astype(int).tolist()
    assert max(seen) > 2


def test_document_masks_give_positions_that_images_do_not_have(tmp_path: Path) -> None:
    job = mixture_of(tmp_path, "no image here " * 200)
    masked = job.model_copy(update={"data": job.data.model_copy(update={"document_masks": True})})
    with pytest.raises(DataError, match=r"a.jsonl: line 1: .*set data.document_masks: false"):
        open_data(masked, VOCAB)
