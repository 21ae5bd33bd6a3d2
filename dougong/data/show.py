"""What a run's first steps read, as text for a person: the sequences, and what of them is learnt.
Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dougong.data.samples.marks import IGNORED
from dougong.data.source_windows import TokenBatch
from dougong.data.sources import chat_tokenizer, job_tokenizer
from dougong.data.tokenizer import HuggingFace, Tokenizer
from dougong.data.windows import TokenWindows, open_data
from dougong.job.schema import Job

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShownText:
    """Text that is learnt, or that is only read."""

    text: str
    is_learnt: bool


@dataclass(frozen=True)
class ShownSequence:
    """`title`: which it is and how many tokens of it are learnt; `pieces`: its text in order,
    without padding."""

    title: str
    pieces: tuple[ShownText, ...]


def first_sequences(job: Job, count: int) -> Iterator[ShownSequence]:
    """The first `count` sequences that a run of the job reads, in its order, from step 1 on. Raises
    DataError as `open_data` does."""
    data, decode = open_data(job, None), _decoder(job)
    shown = 0
    for step, lane, microbatch in _places(data):
        batch = data.microbatch(step, lane, microbatch)
        for row, window in enumerate(data.windows(step, lane, microbatch)):
            if shown == count:
                return
            shown += 1
            where = f"step {step}, lane {lane}, micro-batch {microbatch}, window {window}"
            yield _shown(batch, row, where, decode)


def _places(data: TokenWindows) -> Iterator[tuple[int, int, int]]:
    for step in range(1, data.steps + 1):
        for lane in range(data.lanes):
            for microbatch in range(data.microbatches):
                yield step, lane, microbatch


def _shown(batch: TokenBatch, row: int, where: str, decode: Callable[[Ids], str]) -> ShownSequence:
    ids = batch.ids[row]
    learnt = np.ones(ids.shape, dtype=np.bool_)
    if batch.labels is not None:
        learnt = batch.labels[row] != IGNORED
    if batch.padding is not None:
        ids, learnt = ids[~batch.padding[row]], learnt[~batch.padding[row]]
    num_padding = batch.ids.shape[1] - ids.size
    padded = f", {num_padding} more are padding" if num_padding else ""
    title = f"{where}: {ids.size} tokens, {int(learnt.sum())} of them learnt{padded}"
    borders = [0, *(np.flatnonzero(np.diff(learnt)) + 1).tolist(), ids.size]
    pieces = [
        ShownText(decode(ids[begin:end]), bool(learnt[begin]))
        for begin, end in itertools.pairwise(borders)
    ]
    return ShownSequence(title, tuple(pieces))


def _decoder(job: Job) -> Callable[[Ids], str]:
    """From ids to text, special tokens as they are called; where nobody knows a tokenizer, the ids
    themselves."""
    tokenizer = job_tokenizer(job)
    if tokenizer is None:
        return lambda ids: " ".join(map(str, ids.tolist()))
    if any(source.chat is not None for _, source in job.data.sources):
        model = chat_tokenizer(job, tokenizer).model
        return lambda ids: str(model.decode(ids.tolist(), clean_up_tokenization_spaces=False))
    return _text_decoder(tokenizer)


def _text_decoder(tokenizer: Tokenizer) -> Callable[[Ids], str]:
    if isinstance(tokenizer, HuggingFace):
        model = tokenizer.model
        return lambda ids: str(model.decode(ids.tolist(), skip_special_tokens=False))
    return lambda ids: bytes(ids.tolist()).decode(errors="replace")
