"""What a job names as its data, opened: tokens, and what is known of each of them. Imports no
torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dougong.data.chat_store import ChatForm, open_chats
from dougong.data.chat_template import open_chat_tokenizer
from dougong.data.document_starts import BoundaryId, DocumentStarts, find_starts
from dougong.data.documents.dataset import dataset_rows
from dougong.data.documents.text import Corpus, text_files
from dougong.data.megatron import megatron_starts, open_megatron
from dougong.data.samples.marks import TokenMarks
from dougong.data.token_cache import open_corpus, starts_of
from dougong.data.token_files import TokenFile, open_tokens
from dougong.data.tokenizer import Tokenizer, open_tokenizer
from dougong.job.parts.data import Data
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import tokenizer_of
from dougong.remarks import NOTHING, Remarks


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
    tokenizer = job_tokenizer(job)
    return None if tokenizer is None else tokenizer.num_ids


def job_tokenizer(job: Job) -> Tokenizer | None:
    """The tokenizer of a job's text; None where the data is tokens already. Raises DataError."""
    name = tokenizer_of(job)
    return None if name is None else open_tokenizer(name, job.data.bos)


def open_text(section: Data) -> Corpus:
    """The documents of a job whose data is text. Raises DataError."""
    if section.text is not None:
        return text_files(section.text)
    assert section.dataset is not None, "the schema asks for one source of data"
    return dataset_rows(section.dataset, section.column)


def open_source(job: Job, vocab_size: int | None, cache: Path | None) -> OpenedSource:
    """Open what `data` names; text is tokenised into `cache` if it was not before. Raises
    DataError."""
    section = job.data
    if section.chat is not None:
        return _open_chats(job, section.chat, cache)
    if section.tokens is not None:
        path = Path(section.tokens).expanduser()
        opened = OpenedSource(section.tokens, open_tokens(path, vocab_size))
    elif section.megatron is not None:
        prefix = Path(section.megatron).expanduser()
        opened = OpenedSource(section.megatron, open_megatron(prefix))
    else:
        opened = _open_text(job, cache)
    return _by_documents(section, opened, cache) if section.document_masks else opened


def _open_chats(job: Job, name: str, cache: Path | None) -> OpenedSource:
    tokenizer = _tokenizer_of_text(job)
    template = open_chat_tokenizer(tokenizer.name, tokenizer.digest)
    length, is_packed = job.data.sequence_length, job.data.packing
    chats = open_chats(name, ChatForm(template, tokenizer.num_ids, length, is_packed), cache)
    return OpenedSource(chats.name, chats.tokens, chats.remarks, chats.marks)


def _open_text(job: Job, cache: Path | None) -> OpenedSource:
    corpus, tokenizer = open_text(job.data), _tokenizer_of_text(job)
    tokens = open_corpus(corpus, tokenizer, cache, with_starts=job.data.document_masks)
    return OpenedSource(f"{corpus.name} ({tokenizer.name})", tokens, corpus.remarks)


def _tokenizer_of_text(job: Job) -> Tokenizer:
    tokenizer = job_tokenizer(job)
    assert tokenizer is not None, "text has a tokenizer"
    return tokenizer


def _by_documents(section: Data, opened: OpenedSource, cache: Path | None) -> OpenedSource:
    """The same tokens, each document by itself."""
    tokens = opened.tokens
    if section.tokens is not None:
        starts = find_starts(tokens, _boundary(section), cache)
    elif section.megatron is not None:
        starts = megatron_starts(Path(section.megatron).expanduser())
    else:
        starts = starts_of(tokens)
    note = (
        f"{opened.name}: {starts.num_tokens:,} documents, {tokens.num_tokens:,} tokens, each "
        "document by itself: its first token is not foretold by the one before"
    )
    marks = DocumentStarts(starts, section.sequence_length)
    return replace(opened, remarks=opened.remarks + Remarks(notes=(note,)), marks=marks)


def _boundary(section: Data) -> BoundaryId:
    if section.document_start is not None:
        return BoundaryId(section.document_start, is_first=True)
    assert section.document_end is not None, "a rule of the job asks for one of the two"
    return BoundaryId(section.document_end, is_first=False)
