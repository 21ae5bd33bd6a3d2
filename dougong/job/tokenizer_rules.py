"""Rules of how text becomes a model's ids: the tokenizer, its vocabulary, the length of a
sequence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from dougong.job.parts.data import SourceKeys
from dougong.job.rule import Breach, Rule, model_config
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import (
    BYTES,
    NUM_BYTES,
    holds_tokenizer,
    ready_tokens,
    tokenizer_of,
)
from dougong.job.yaml.locations import KeyPath
from dougong.job.yaml.provenance import dotted

_BOUNDARIES = ("document_start", "document_end")


def _tokenizer(job: Job) -> Iterator[Breach]:
    name, path = job.data.tokenizer, ("data", "tokenizer")
    if name is None or name == BYTES:
        return
    ready = ready_tokens(job.data)
    if ready is not None:
        rule = f"data.{ready} holds token ids, so nothing is left to tokenise"
        yield Breach(path, f"{rule}; remove data.tokenizer")
    elif not os.path.exists(name):
        advice = "give `bytes`, a tokenizer.json, or a Hugging Face folder"
        yield Breach(path, f"there is no {name}; {advice}")
    elif os.path.isdir(name) and not holds_tokenizer(name):
        advice = "name a folder that has its tokenizer.json, or `bytes`"
        yield Breach(path, f"{name} holds no tokenizer; {advice}")


def _bytes_for_a_folder(job: Job) -> Iterator[Breach]:
    """A model that was trained on words gets no bytes by oversight."""
    folder = job.model.path
    if folder is None or tokenizer_of(job) != BYTES or job.data.allow_bytes:
        return
    num_ids = number_in(model_config(job), "vocab_size")
    if num_ids is None or num_ids <= NUM_BYTES:
        return
    text = (
        f"`bytes` gives {NUM_BYTES} ids, but the vocabulary of {folder} has {num_ids}, so its "
        "weights have learnt other ids"
    )
    if holds_tokenizer(folder):
        advice = "remove data.tokenizer to take the folder's own"
    else:
        advice = "the folder holds no tokenizer: name the model's own in data.tokenizer"
    insist = "or, if it was trained on bytes, add `allow_bytes: true`"
    yield Breach(("data", "tokenizer"), f"{text}; {advice}, {insist}")


def _beginning(job: Job) -> Iterator[Breach]:
    path, ready = ("data", "bos"), ready_tokens(job.data)
    if ready is not None and job.data.bos != "auto":
        rule = f"data.{ready} holds token ids, to which nothing is added"
        yield Breach(path, f"{rule}; remove data.bos")
    elif job.data.bos is True and tokenizer_of(job) == BYTES:
        text = "`bytes` has no token for the beginning of a document; remove data.bos"
        yield Breach(path, text)


def _column(job: Job) -> Iterator[Breach]:
    whole: tuple[KeyPath, SourceKeys] = (("data",), job.data)
    for place, source in (whole, *job.data.sources) if job.data.mixture else (whole,):
        if source.column is not None and source.dataset is None:
            key = f"{dotted(place)}.dataset"
            text = f"only a data.dataset has columns; remove it, or name the data set in {key}"
            yield Breach((*place, "column"), text)


def _chats(job: Job) -> Iterator[Breach]:
    """What goes with chats alone, and what does not go with them."""
    data = job.data
    chats = [place for place, source in data.sources if source.chat is not None]
    if not chats:
        if data.packing:
            text = "only chats are packed; remove it, or name chats in data.chat"
            yield Breach(("data", "packing"), text)
        return
    if data.bos != "auto" and len(chats) == len(data.sources):
        text = "a chat begins as its template says; remove data.bos"
        yield Breach(("data", "bos"), text)
    for place in chats if tokenizer_of(job) == BYTES else ():
        text = (
            "chats need a tokenizer with a chat template; name the folder of an instruct model in "
            "data.tokenizer"
        )
        yield Breach((*place, "chat"), text)


def _documents(job: Job) -> Iterator[Breach]:
    """What tells documents apart, and where it does."""
    data = job.data
    if data.document_masks and all(source.chat is not None for _, source in data.sources):
        text = "chats are by themselves already, several in a sequence with data.packing; remove it"
        yield Breach(("data", "document_masks"), text)
    if data.mixture:
        yield from _boundaries(("data",), data, data.document_masks)
    for place, source in data.sources:
        yield from _boundaries(place, source, data.document_masks)


def _boundaries(place: KeyPath, source: SourceKeys, is_masked: bool) -> Iterator[Breach]:
    """The id by which documents of a source are told apart: of bare ids one, of others none."""
    given = [key for key in _BOUNDARIES if getattr(source, key) is not None]
    if source.tokens is None:
        for key in given:
            rule = "only bare ids (tokens) need it: other data knows where its documents begin"
            yield Breach((*place, key), f"{rule}; remove it")
    elif given and not is_masked:
        text = (
            "nothing uses it without data.document_masks; add `document_masks: true`, or remove it"
        )
        yield Breach((*place, given[0]), text)
    elif len(given) > 1:
        text = f"a second id beside {given[0]}; keep the one that every document has"
        yield Breach((*place, given[1]), text)
    elif is_masked and not given:
        text = (
            "bare ids do not say where documents end; add `document_end: ID`, the id that its "
            "tokeniser has put behind each (or `document_start: ID`, before each), or set "
            "data.document_masks: false"
        )
        yield Breach((*place, "tokens"), text)


def _positions(job: Job) -> Iterator[Breach]:
    positions = number_in(model_config(job), "max_position_embeddings")
    if positions is not None:
        breach = longer_than(job, positions)
        if breach is not None:
            yield breach


def longer_than(job: Job, positions: int) -> Breach | None:
    """Sequences that are longer than a model has positions, where the job does not insist."""
    length = job.data.sequence_length
    if length <= positions or job.data.allow_longer_sequences:
        return None
    text = (
        f"{length} tokens in a sequence, but the model has positions for {positions} "
        "(max_position_embeddings); lower it, or raise model.config.max_position_embeddings (what "
        "leaves then says so too), or insist with `allow_longer_sequences: true`"
    )
    return Breach(("data", "sequence_length"), text)


def number_in(config: dict[str, Any], key: str) -> int | None:
    """A positive whole number of a model's configuration."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else None


TOKENIZER_RULES = (
    Rule(("data",), _tokenizer),
    Rule(("data", "model"), _bytes_for_a_folder),
    Rule(("data", "model"), _beginning),
    Rule(("data",), _column),
    Rule(("data", "model"), _chats),
    Rule(("data",), _documents),
    Rule(("data", "model"), _positions),
)
