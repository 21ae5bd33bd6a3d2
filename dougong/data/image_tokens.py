"""Texts beside chats with images, which must not hold the token of an image. Imports no torch.

A model takes each such token for a part of an image, whosever text holds it, and a micro-batch may
have a text and a chat with images. So all ids are looked at before the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dougong.data.chats.image_form import image_tokens
from dougong.data.chats.images import ImageForm
from dougong.data.chats.rows import chat_files, find_images
from dougong.data.chats.store import Marks
from dougong.data.documents.text import Corpus
from dougong.data.source_windows import SourceWindows
from dougong.data.sources import chat_tokenizer, job_tokenizer, open_text
from dougong.errors import DataError
from dougong.job.parts.data import SourceKeys
from dougong.job.schema import Job
from dougong.job.yaml.provenance import dotted

_AT_ONCE = 1 << 22
_LOOKED_AT = 1 << 30
"""Bytes of a source's text that a plan looks through: some seconds."""


def refuse_image_tokens(job: Job, sources: Sequence[SourceWindows]) -> None:
    """DataError with the source, and the file where it is text, if one without images holds the
    token of another's. `sources`: all of the job's."""
    forms = [form for form in map(_form_of, sources) if form is not None]
    for (_, keys), source in zip(job.data.sources, sources, strict=True):
        if forms and _form_of(source) is None:
            _refuse(keys, source, forms[0])


def refuse_before_tokenising(job: Job) -> None:
    """The same of texts that are not tokenised yet, as far as they are looked at: DataError with
    the file if one has the token's name."""
    chats = [keys.chat for _, keys in job.data.sources if keys.chat is not None]
    if not any(map(_has_images, chats)):
        return
    tokenizer = job_tokenizer(job)
    assert tokenizer is not None, "chats have a tokenizer"
    for token, name in image_tokens(job, chat_tokenizer(job, tokenizer)).items():
        for place, keys in job.data.sources:
            if keys.source not in ("text", "dataset"):
                continue
            corpus = open_text(keys)
            where = _document_with(corpus, name, _LOOKED_AT)
            if where is not None:
                raise _fault(dotted(place), corpus.name, where, f"{name} ({token})")


def _has_images(chats: str) -> bool:
    return next(find_images(chat_files(chats)), None) is not None


def _form_of(source: SourceWindows) -> ImageForm | None:
    marks = source.marks
    return marks.images.form if isinstance(marks, Marks) and marks.images is not None else None


def _refuse(keys: SourceKeys, source: SourceWindows, form: ImageForm) -> None:
    place = _first_of(source, form.token)
    if place is None:
        return
    where = f"token {place} of {source.tokens.path}"
    if keys.source in ("text", "dataset"):
        where = _document_with(open_text(keys), form.token_name) or where
    raise _fault(source.place, source.name, where, form.words)


def _fault(place: str, name: str, where: str, token: str) -> DataError:
    return DataError(
        f"{place}: {name}: {where}: a text holds {token}, which stands for a part of an image, and "
        "chats of this mixture have images; take it out of the text, or train on the two one after "
        "the other"
    )


def _first_of(source: SourceWindows, token: int) -> int | None:
    """Where it first stands among the tokens that windows have."""
    ids = source.tokens.ids[: source.order.num_windows * source.sequence_length]
    for start in range(0, len(ids), _AT_ONCE):
        found = np.flatnonzero(ids[start : start + _AT_ONCE] == token)
        if found.size:
            return start + int(found[0])
    return None


def _document_with(corpus: Corpus, name: str, most: float = math.inf) -> str | None:
    """The first document that holds this text, and where; None where none does as it stands, among
    the first `most` bytes."""
    wanted, looked_at = name.encode(), 0
    for document in corpus.documents():
        before = b""
        for begin, block in document.blocks():
            if looked_at >= most:
                return None
            looked_at += len(block)
            found = (before + block).find(wanted)
            if found >= 0:
                return f"{document.name}: byte {begin - len(before) + found}"
            before = (before + block)[-len(wanted) + 1 :]
    return None
