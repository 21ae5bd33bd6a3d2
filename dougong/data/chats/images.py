"""The images of sequences: found when chats are read, and made into what a model's tower takes when
a sequence is. Imports no torch.

A cache entry with images holds `images.bin` (JSON, a list for each sequence), `image_lists.bin`
(int64, where each list begins) and `images.json`. It holds no pixels, which take many times the
room of their files: an image is read again whenever its sequence is, and must be what it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dougong.data.chats.image_files import image_digest, read_image
from dougong.data.chats.image_processor import ImageProcessor
from dougong.data.chats.parts import ImageName
from dougong.data.chats.rows import Chat
from dougong.data.chats.template import Encoded, KeptImage, PlacedImage
from dougong.data.samples.image_batch import ImageBatch, Patches
from dougong.data.token_cache import DescribedWriter, write_described, write_json
from dougong.data.token_files import TokenFile, open_described
from dougong.errors import DataError

_LISTS, _STARTS, _ABOUT = "images.bin", "image_lists.bin", "images.json"


_MOST_THREADS = 8
"""That work on images at once. What they do is mostly outside of Python."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def side_by_side(make: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    """`make` of each, in order, on as many threads as there are cores for."""
    if len(items) < 2:
        return [make(one) for one in items]
    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as threads:
        return list(threads.map(make, items))


@dataclass(frozen=True)
class ImageForm:
    """How images become tokens. `token`: the id that stands for a part of one; `token_name`: what
    the tokenizer calls it."""

    processor: ImageProcessor
    token: int
    token_name: str

    @property
    def words(self) -> str:
        """The token as a person knows it."""
        return f"{self.token_name} ({self.token})"

    def read(self, names: Sequence[ImageName]) -> list[KeptImage]:
        """Raises DataError for an image that is missing or broken."""
        return side_by_side(self._kept, names)

    def expand(self, chat: Chat, encoded: Encoded, kept: Sequence[KeptImage]) -> Encoded:
        """The chat with as many tokens for an image as the tower gives, none of which is learnt.
        `kept`: its images. Raises DataError where the template's images are not these."""
        places = np.flatnonzero(encoded.ids == self.token)
        self._check(chat, places)
        counts = np.ones(encoded.ids.size, dtype=np.int64)
        counts[places] = [self.processor.num_tokens(one.grid) for one in kept]
        begins = (np.cumsum(counts) - counts)[places].tolist()
        placed = zip(begins, counts[places].tolist(), kept, strict=True)
        return Encoded(
            np.repeat(encoded.ids, counts),
            np.repeat(encoded.is_target & (encoded.ids != self.token), counts),
            tuple(PlacedImage(begin, begin + count, one) for begin, count, one in placed),
            encoded.num_messages,
        )

    def _check(self, chat: Chat, places: npt.NDArray[np.int64]) -> None:
        if places.size != len(chat.images):
            raise DataError(
                f"{chat.place}: rendered it has {places.size} {self.words} for "
                f"{len(chat.images)} images: each part of type image must give one, and no text "
                "may hold it; mend the row, or the chat template"
            )
        if (np.diff(places) == 1).any():
            raise DataError(
                f"{chat.place}: the chat template renders two images with nothing between them, "
                "so the model could not tell them apart; mend the template, or put text between"
            )

    def _kept(self, name: ImageName) -> KeptImage:
        data = read_image(name)
        patches = self.processor.patches(name, data)
        return KeptImage(name, image_digest(data), patches.digest(), patches.grid)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """The images of all sequences of a cache entry. `files`: the chats, as they are called now;
    `digest`: of all images and of their pixels; `count`: how many there are."""

    form: ImageForm
    files: Sequence[Path]
    lists: TokenFile
    starts: TokenFile
    digest: str
    count: int

    def batch(
        self, ids: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
    ) -> ImageBatch | None:
        """The images of these sequences, which hold `ids`; None where they have none. Raises
        DataError for an image that is no longer what it was."""
        rows = [self._of(window) for window in windows.tolist()]
        kept = list(itertools.chain.from_iterable(rows))
        if not kept:
            return None
        patches = iter(side_by_side(self._patches, kept))
        of_rows = tuple(tuple(itertools.islice(patches, len(row))) for row in rows)
        return ImageBatch(of_rows, self.form.token, (ids == self.form.token).astype(np.int64))

    def _of(self, window: int) -> list[KeptImage]:
        begin, end = self.starts.read(window, 2).tolist()
        found = json.loads(self.lists.ids[begin:end].tobytes())
        return [_from_json(one, self.files) for one in found]

    def _patches(self, kept: KeptImage) -> Patches:
        data = read_image(kept.name)
        if image_digest(data) != kept.digest:
            raise DataError(
                f"{kept.name.words}: has changed since the chats were read; put the image back "
                "that was there, or start a new run"
            )
        patches = self.form.processor.patches(kept.name, data)
        if patches.digest() != kept.pixels:
            raise DataError(
                f"{kept.name.words}: gives other pixels here than where the chats were read; "
                "install the same versions of pillow, numpy and transformers on all nodes"
            )
        return patches


def _to_json(kept: KeptImage, files: Sequence[Path]) -> list[Any]:
    name = kept.name
    return [files.index(name.file), name.part, name.name, kept.digest, kept.pixels, kept.grid]


def _from_json(found: list[Any], files: Sequence[Path]) -> KeptImage:
    file, part, name, digest, pixels, grid = found
    return KeptImage(ImageName(files[file], part, name), digest, pixels, tuple(grid))


@dataclass
class ImageWriter:
    """The images of one sequence after the other, into a cache entry. `count`: images so far."""

    files: Sequence[Path]
    lists: DescribedWriter
    starts: DescribedWriter
    total: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    count: int = 0

    def write(self, images: Sequence[KeptImage]) -> None:
        self.starts.write(np.array([self.lists.count]))
        text = json.dumps([_to_json(one, self.files) for one in images])
        self.lists.write(np.frombuffer(text.encode(), dtype=np.uint8))
        self.count += len(images)
        self.total.update(json.dumps([[one.digest, one.pixels] for one in images]).encode())


@contextmanager
def write_images(folder: Path, files: Sequence[Path]) -> Iterator[ImageWriter]:
    """Into a cache entry that is being made. `files`: the chats."""
    with (
        write_described(folder / _LISTS, "uint8") as lists,
        write_described(folder / _STARTS, "int64") as starts,
    ):
        writer = ImageWriter(files, lists, starts)
        yield writer
        starts.write(np.array([lists.count]))
    write_json(folder / _ABOUT, {"digest": writer.total.hexdigest(), "images": writer.count})


def open_images(entry: Path, form: ImageForm, files: Sequence[Path]) -> StoredImages:
    """Of a cache entry. `files`: the chats."""
    about = json.loads((entry / _ABOUT).read_text())
    lists, starts = open_described(entry / _LISTS), open_described(entry / _STARTS)
    return StoredImages(form, files, lists, starts, about["digest"], about["images"])
