"""A look at the data for a person who asks for a plan: whether it is enough, without the work of
reading all of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.text import Corpus
from dougong.data.token_cache import encode_document, no_text
from dougong.data.token_files import Tokenized
from dougong.data.tokenizer import Tokenizer
from dougong.data.windows import find_shortage, job_tokenizer, open_data, open_text
from dougong.errors import DataError
from dougong.job.schema import Job
from dougong.remarks import Remarks


def preview_data(job: Job, vocab_size: int | None) -> tuple[str, Remarks]:
    """What the data is, in a line, and what is told of it once; text is tokenised until it is
    enough for the first windows, and nothing is kept of it.

    Raises DataError as `open_data` does, for what is met up to there.
    """
    tokenizer = job_tokenizer(job)
    if tokenizer is None:
        return _figures(job, vocab_size), Remarks()
    corpus = open_text(job.data)
    return _first_windows(job, corpus, tokenizer, vocab_size), corpus.remarks


def _first_windows(job: Job, corpus: Corpus, tokenizer: Tokenizer, vocab_size: int | None) -> str:
    name = f"{corpus.name} ({tokenizer.name})"
    count, shortage = 0, None
    for ids in _ids(corpus, tokenizer, vocab_size):
        count += ids.size
        shortage = find_shortage(job, name, count)
        if shortage is None:
            return f"{name}: {count:,} tokens and more, enough for the first windows"
    if shortage is None:
        raise no_text(corpus)
    raise DataError(shortage)


def _figures(job: Job, vocab_size: int | None) -> str:
    """Of token files, which are opened whole."""
    # Nothing is tokenised, so nothing is kept.
    data = open_data(job, vocab_size, Path())
    epochs = data.describe()["epochs"]
    return (
        f"{data.name}: {data.tokens.num_tokens:,} tokens, {data.num_windows:,} windows, "
        f"{data.num_held_out:,} of them held out; each other is read {epochs} times"
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
