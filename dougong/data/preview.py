"""A look at the data for a person who asks for a plan: whether it is enough, without the work of
reading all of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.documents.text import Corpus
from dougong.data.source_windows import (
    find_shortage,
    num_train_windows,
    reread_remarks,
    windows_of_step,
)
from dougong.data.sources import job_tokenizer, open_text
from dougong.data.token_cache import encode_document, no_text
from dougong.data.token_files import Tokenized
from dougong.data.tokenizer import Tokenizer
from dougong.data.windows import open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.remarks import Remarks

_ENOUGH_TOKENS = 1 << 20
"""Of a step that reads more, a look does not find out whether there are as many."""


def preview_data(job: Job, vocab_size: int | None) -> tuple[str, Remarks]:
    """What the data is, in a line, and what is told of it once; text is tokenised until it is
    enough for the first step, and nothing is kept of it.

    Raises DataError as `open_data` does, for what is met up to there.
    """
    tokenizer = job_tokenizer(job)
    if tokenizer is None:
        # Nothing is tokenised, so nothing is kept but where documents begin.
        return _whole_files(job, vocab_size, None if job.data.document_masks else Path())
    if job.data.chat is not None:
        return _whole_files(job, vocab_size, None)
    corpus = open_text(job.data)
    line, told = _first_step(job, corpus, tokenizer, vocab_size)
    return line, corpus.remarks + told


def _first_step(
    job: Job, corpus: Corpus, tokenizer: Tokenizer, vocab_size: int | None
) -> tuple[str, Remarks]:
    name, count = f"{corpus.name} ({tokenizer.name})", 0
    for ids in _ids(corpus, tokenizer, vocab_size):
        count += ids.size
        fills_step = num_train_windows(job, count) >= windows_of_step(job)
        if (fills_step or count >= _ENOUGH_TOKENS) and find_shortage(job, name, count) is None:
            return f"{name}: {count:,} tokens and more, enough for the first step", Remarks()
    if count == 0:
        raise no_text(corpus)
    shortage = find_shortage(job, name, count)
    if shortage is not None:
        raise DataError(shortage)
    return _figures(job, name, count), reread_remarks(job, name, count)


def _whole_files(job: Job, vocab_size: int | None, cache: Path | None) -> tuple[str, Remarks]:
    """Of token files, which are opened whole, and of chats, every row of which is looked at, and
    whose sequences are kept for the run, as are the starts of documents (`cache` None: where the
    job says)."""
    data = open_data(job, vocab_size, cache)
    return _figures(job, data.name, data.source.tokens.num_tokens), data.remarks


def _figures(job: Job, name: str, num_tokens: int) -> str:
    num_windows = num_tokens // job.data.sequence_length
    num_train = num_train_windows(job, num_tokens)
    epochs = round(job.steps * windows_of_step(job) / num_train, 4)
    return (
        f"{name}: {num_tokens:,} tokens, {num_windows:,} windows, "
        f"{num_windows - num_train:,} of them held out; each other is read {epochs} times"
    )


def _ids(
    corpus: Corpus, tokenizer: Tokenizer, vocab_size: int | None
) -> Iterator[npt.NDArray[Any]]:
    """The ids of all documents, some at a time; DataError for one beyond the vocabulary."""
    made_of = Tokenized(corpus.name, tokenizer.name, tokenizer.num_ids)
    count = 0
    for document in corpus.documents():
        for ids in encode_document(document, tokenizer):
            if vocab_size is not None and ids.size and int(ids.max()) >= vocab_size:
                first = int(np.argmax(ids >= vocab_size))
                raise made_of.outside(count + first, int(ids[first]), vocab_size)
            count += ids.size
            yield ids
