"""What a job names as its data, opened: tokens, and what is known of each of them. Imports no
torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dougong.data.chats.image_form import open_image_form, seen_tokens
from dougong.data.chats.store import ChatForm, open_chats
from dougong.data.chats.template import ChatTokenizer, open_chat_tokenizer
from dougong.data.document_starts import BoundaryId, DocumentStarts, find_starts
from dougong.data.documents.dataset import dataset_rows
from dougong.data.documents.text import Corpus, text_files
from dougong.data.megatron import megatron_starts, open_megatron
from dougong.data.samples.marks import TokenMarks
from dougong.data.token_cache import open_corpus, starts_of
from dougong.data.token_files import TokenFile, open_tokens
from dougong.data.tokenizer import Tokenizer, open_tokenizer
from dougong.errors import DataError
from dougong.job.parts.data import SourceKeys
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import tokenizer_of
from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.provenance import dotted
from dougong.remarks import NOTHING, Remarks

_OWN_KEY = re.compile(rf"(?<![\w./])data\.({'|'.join(SourceKeys.model_fields)})\b")
"""A key that each source of a mixture has for itself, as messages name that of a job's one."""


@dataclass(frozen=True, eq=False)
class OpenedSource:
    """A source of tokens, by its name, with what is told of it once."""

    name: str
    tokens: TokenFile
    remarks: Remarks = NOTHING
    marks: TokenMarks | None = None


def vocabulary(job: Job) -> int | None:
    """The tokenizer's number of ids for a model that names none; None where it names its own, or
    where the data is tokens already, since their tokenizer is not known."""
    if job.model.path is not None or "vocab_size" in job.model.config:
        return None
    return num_ids(job)


def num_ids(job: Job) -> int | None:
    """The ids of a job's tokenizer (of that which renders chats, where it has any); None where the
    data is tokens already. Raises DataError."""
    tokenizer = job_tokenizer(job)
    if tokenizer is None or all(source.chat is None for _, source in job.data.sources):
        return None if tokenizer is None else tokenizer.num_ids
    return chat_tokenizer(job, tokenizer).num_ids


def chat_tokenizer(job: Job, tokenizer: Tokenizer) -> ChatTokenizer:
    """That renders a job's chats, of its tokenizer. Raises DataError."""
    data = job.data
    return open_chat_tokenizer(
        tokenizer.name, tokenizer.digest, data.chat_date, data.chat_arguments
    )


def job_tokenizer(job: Job) -> Tokenizer | None:
    """The tokenizer of a job's text; None where the data is tokens already. Raises DataError."""
    name = tokenizer_of(job)
    return None if name is None else open_tokenizer(name, job.data.bos)


def open_text(source: SourceKeys) -> Corpus:
    """The documents of a source that is text. Raises DataError."""
    if source.text is not None:
        return text_files(source.text)
    assert source.dataset is not None, "the schema asks for one source of data"
    return dataset_rows(source.dataset, source.column)


@contextmanager
def at_source(place: KeyPath) -> Iterator[None]:
    """What is found wrong inside with a source of a mixture is told with its place in the job."""
    try:
        yield
    except DataError as error:
        if place == ("data",):
            raise
        text = _OWN_KEY.sub(rf"{dotted(place)}.\1", str(error))
        if not text.startswith("data."):
            text = f"{dotted(place)}: {text}"
        raise DataError(text) from error


@dataclass(frozen=True, eq=False)
class Opener:
    """Opens the sources of a job. `vocab_size`: the model's, None where it is not known; `cache`:
    where text is kept as tokens."""

    job: Job
    vocab_size: int | None
    cache: Path | None

    def open(self, source: SourceKeys) -> OpenedSource:
        """What a source names; text is tokenised into the cache if it was not before. Raises
        DataError."""
        if source.chat is not None:
            return self._open_chats(source.chat)
        if source.tokens is not None:
            path = Path(source.tokens).expanduser()
            opened = OpenedSource(source.tokens, open_tokens(path, self.vocab_size))
        elif source.megatron is not None:
            prefix = Path(source.megatron).expanduser()
            opened = OpenedSource(source.megatron, open_megatron(prefix))
        else:
            opened = self._open_text(source)
        return self._by_documents(source, opened) if self.job.data.document_masks else opened

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = job_tokenizer(self.job)
        assert tokenizer is not None, "text has a tokenizer"
        return tokenizer

    def _open_chats(self, name: str) -> OpenedSource:
        tokenizer, data = self._tokenizer, self.job.data
        template = chat_tokenizer(self.job, tokenizer)
        images = functools.partial(open_image_form, self.job, template)
        form = ChatForm(
            template,
            template.num_ids,
            data.sequence_length,
            data.packing,
            images,
            seen_tokens(self.job, template),
        )
        chats = open_chats(name, form, self.cache)
        return OpenedSource(chats.name, chats.tokens, chats.remarks, chats.marks)

    def _open_text(self, source: SourceKeys) -> OpenedSource:
        corpus, tokenizer = open_text(source), self._tokenizer
        tokens = open_corpus(corpus, tokenizer, self.cache, self.job.data.document_masks)
        return OpenedSource(f"{corpus.name} ({tokenizer.name})", tokens, corpus.remarks)

    def _by_documents(self, source: SourceKeys, opened: OpenedSource) -> OpenedSource:
        """The same tokens, each document by itself."""
        tokens = opened.tokens
        if source.tokens is not None:
            starts = find_starts(tokens, _boundary(source), self.cache)
        elif source.megatron is not None:
            starts = megatron_starts(Path(source.megatron).expanduser())
        else:
            starts = starts_of(tokens)
        note = (
            f"{opened.name}: {starts.num_tokens:,} documents, {tokens.num_tokens:,} tokens, each "
            "document by itself: its first token is not foretold by the one before"
        )
        warnings = (_one_document(source, opened.name),) if starts.num_tokens == 1 else ()
        marks = DocumentStarts(starts, self.job.data.sequence_length)
        told = opened.remarks + Remarks((note,), warnings)
        return replace(opened, remarks=told, marks=marks)


def _one_document(source: SourceKeys, name: str) -> str:
    text = f"{name}: is one document, so data.document_masks parts nothing in it"
    if source.megatron is not None:
        return (
            f"{text}: the index's list of documents names no second one; preprocess it again with "
            "each document by itself, if it has several"
        )
    if source.text is not None:
        return f"{text}: each file is one; give each document a file, or a row of a data.dataset"
    return f"{text}; check where its documents end, if it has several"


def _boundary(source: SourceKeys) -> BoundaryId:
    if source.document_start is not None:
        return BoundaryId(source.document_start, is_first=True)
    assert source.document_end is not None, "a rule of the job asks for one of the two"
    return BoundaryId(source.document_end, is_first=False)
