"""A look at the data for a person who asks for a plan: whether it is enough, without the work of
reading all of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.documents.text import Corpus
from dougong.data.image_tokens import refuse_before_tokenising
from dougong.data.source_windows import (
    find_shortage,
    num_train_windows,
    reread_remarks,
    windows_of_step,
)
from dougong.data.sources import Opener, at_source, job_tokenizer, open_text
from dougong.data.token_cache import encode_document, no_text
from dougong.data.token_files import Tokenized
from dougong.data.tokenizer import Tokenizer
from dougong.data.windows import open_data, tokens_place, windows_of
from dougong.errors import DataError
from dougong.job.parts.data import SourceKeys
from dougong.job.schema import Job
from dougong.job.yaml.provenance import dotted
from dougong.remarks import NOTHING, Remarks

_ENOUGH_TOKENS = 1 << 20
"""Of a step that reads more, a look does not find out whether there are as many."""


def preview_data(job: Job, vocab_size: int | None) -> tuple[str, Remarks]:
    """What the data is, in a line for each source, and what is told of it once; text is tokenised
    until it is enough for the first step, and nothing is kept of it.

    Raises DataError as `open_data` does, for what is met up to there.
    """
    texts = [source for _, source in job.data.sources if source.source in ("text", "dataset")]
    if not texts:
        return _whole(job, vocab_size)
    lines, told = [], Remarks()
    looks = zip(job.data.sources, _shares(job), strict=True)
    for number, ((place, source), share) in enumerate(looks):
        with at_source(place):
            look = _look_at_text if source in texts else _look_at_whole
            line, more = look(_SourceLook(job, vocab_size, number, share), source)
        part = "" if share is None else f"; {100 * share:.4g} % of what is read"
        lines.append(f"{dotted(place)}: {line}{part}" if job.data.mixture else line)
        told += more
    refuse_before_tokenising(job)
    return "\n  ".join(["", *lines] if job.data.mixture else lines), told


@dataclass(frozen=True)
class _SourceLook:
    """What is asked of a source: the `number`th of the job, which has `share` of what is read
    (None: it is not known yet)."""

    job: Job
    vocab_size: int | None
    number: int
    share: float | None

    @property
    def most_of_step(self) -> float:
        """How many of a step's windows are the source's, at the most."""
        return windows_of_step(self.job) * (1.0 if self.share is None else self.share)

    def figures(self, name: str, num_tokens: int) -> tuple[str, Remarks]:
        """Of so many tokens, in a line, and what is told of them."""
        line = _figures(self.job, name, num_tokens, self.share)
        if self.share is None:
            return line, NOTHING
        return line, reread_remarks(self.job, name, num_tokens, self.share)


def _shares(job: Job) -> list[float | None]:
    """Of each source, as far as they are known before all its text is tokenised: those of epochs
    are not."""
    if not job.data.mixture:
        return [1.0]
    weights = [entry.weight for entry in job.data.mixture]
    total = sum(weight or 0.0 for weight in weights)
    return [None if weight is None else weight / total for weight in weights]


def _look_at_text(look: _SourceLook, source: SourceKeys) -> tuple[str, Remarks]:
    job, tokenizer = look.job, job_tokenizer(look.job)
    assert tokenizer is not None, "text has a tokenizer"
    corpus = open_text(source)
    name, count = f"{corpus.name} ({tokenizer.name})", 0
    for ids in _ids(corpus, tokenizer, look.vocab_size):
        count += ids.size
        fills_step = num_train_windows(job, count) >= look.most_of_step
        if (fills_step or count >= _ENOUGH_TOKENS) and find_shortage(job, name, count) is None:
            line = f"{name}: {count:,} tokens and more, enough for the first step"
            return line, corpus.remarks
    if count == 0:
        raise no_text(corpus)
    shortage = find_shortage(job, name, count)
    if shortage is not None:
        raise DataError(shortage)
    line, told = look.figures(name, count)
    return line, corpus.remarks + told


def _look_at_whole(look: _SourceLook, source: SourceKeys) -> tuple[str, Remarks]:
    """Of token files, which are opened whole, and of chats, every row of which is looked at, and
    whose sequences are kept for the run, as are the starts of documents."""
    job = look.job
    opened = Opener(job, look.vocab_size, tokens_place(job)).open(source)
    windows = windows_of(job, opened, look.vocab_size, ("data",), look.number)
    line, told = look.figures(opened.name, windows.tokens.num_tokens)
    return line, opened.remarks + told


def _whole(job: Job, vocab_size: int | None) -> tuple[str, Remarks]:
    """Of data without text, whose sizes are known."""
    is_kept = job.data.document_masks or any(one.chat is not None for _, one in job.data.sources)
    # Of token files nothing is kept but where documents begin.
    data = open_data(job, vocab_size, None if is_kept else Path())
    num_tokens = sum(source.tokens.num_tokens for source in data.mixture.sources)
    if not job.data.mixture:
        return _figures(job, data.name, num_tokens, 1.0), data.remarks
    line = (
        f"{len(data.mixture.sources)} sources: {num_tokens:,} tokens, {data.num_windows:,} "
        f"windows, {data.num_held_out:,} of them held out"
    )
    return line, data.remarks


def _figures(job: Job, name: str, num_tokens: int, share: float | None) -> str:
    num_windows = num_tokens // job.data.sequence_length
    num_train = num_train_windows(job, num_tokens)
    read = "how often each other is read is known when all text is tokenised"
    if share is not None:
        epochs = round(job.steps * windows_of_step(job) * share / num_train, 4)
        read = f"each other is read {epochs} times"
    return (
        f"{name}: {num_tokens:,} tokens, {num_windows:,} windows, "
        f"{num_windows - num_train:,} of them held out; {read}"
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
