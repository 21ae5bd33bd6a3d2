"""The keys of `data`: where tokens come from, and what is learnt of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from dougong.job.section import (
    WHOLE,
    AboveZero,
    Count,
    Positive,
    Section,
    Text,
    logical,
    physical,
)
from dougong.job.yaml.locations import KeyPath

SOURCES = ("text", "tokens", "megatron", "dataset", "chat")
"""The keys that name where tokens come from."""


class Validation(Section):
    """Which part of the data is held out and how often the loss on it is measured."""

    fraction: Annotated[StrictFloat, Field(gt=0, lt=1)] = logical(
        0.02, "part of the data that is never trained on"
    )
    every: Positive = physical(100, "measure after every so many steps")
    batches: Positive = physical(4, "batches that one measurement reads")


class SourceKeys(Section):
    """Where tokens come from: exactly one of `text`, `tokens`, `megatron`, `dataset`, `chat`."""

    text: Text | None = logical(
        None,
        "`stdlib` (Python's own standard library sources), or a text file, or a glob (`**` "
        "crosses folders)",
    )
    tokens: Text | None = logical(
        None,
        "a file of token ids, memory-mapped: a 1-D .npy, or bare ids: uint16, or what FILE.json "
        'says: {"dtype": "uint32"} (uint8, uint16, uint32, int32, int64)',
    )
    megatron: Text | None = logical(
        None, "prefix of a Megatron-LM indexed dataset: PREFIX.bin and PREFIX.idx"
    )
    dataset: Text | None = logical(
        None,
        "a Hugging Face dataset: a folder, a .jsonl, .parquet or .csv file, a glob of such files, "
        "or a name on the hub; split `train`",
    )
    column: Text | None = logical(
        None, "the dataset's column of strings to train on; null: `text`, and no other is guessed"
    )
    chat: Text | None = logical(
        None,
        'chats: a .jsonl file, or a glob of them, a row each: {"messages": [{"role": ..., '
        '"content": ...}, ...], "tools": [...]}, rendered by the tokenizer\'s chat template; '
        'content is text or parts, of which {"type": "image", "image": PATH} may be one for a '
        "model that sees; what the assistant says is learnt, every token of it with the same "
        "weight in a step",
    )
    document_start: Count | None = logical(
        None, "of tokens with document_masks: the id that begins each document of the file"
    )
    document_end: Count | None = logical(
        None, "of tokens with document_masks: the id that ends each document of the file"
    )

    @property
    def source(self) -> str | None:
        """The key that names where tokens come from."""
        return next((key for key in SOURCES if getattr(self, key) is not None), None)


class MixtureSource(SourceKeys):
    """A source of a mixture: exactly one of `text`, `tokens`, `megatron`, `dataset`, `chat`, and
    `weight` or `epochs`, the same one in all of them.

    Tokenizer, sequence length, document masks, packing and validation are those of `data`.
    """

    weight: AboveZero | None = logical(
        None,
        "its part of the windows that are read, in proportion to the others' weights: at any step "
        "within two windows of it",
    )
    epochs: AboveZero | None = logical(
        None, "how often its windows are read, in proportion to the others' epochs"
    )


class Data(SourceKeys):
    """Where tokens come from: exactly one of `text`, `tokens`, `megatron`, `dataset`, `chat`,
    `mixture`.

    A relative path counts from the job file's folder; one given by `-o` from the current folder.
    """

    mixture: tuple[MixtureSource, ...] = logical(
        (), "several sources, of each a part of the windows (docs/data.md)"
    )
    document_masks: StrictBool = logical(
        False,
        "learn each document of text, dataset, megatron or tokens by itself: positions from 0 at "
        "its first token in a sequence, no look at another one, and its first token is not "
        "foretold by the one before it; its last token (a tokenizer's end mark) is learnt; false: "
        "a sequence is one stream",
    )
    chat_arguments: dict[StrictStr, Any] = logical(
        {},
        "what the chat template is given besides messages and tools, such as {enable_thinking: "
        "false}",
    )
    chat_date: Text | None = logical(
        None,
        "YYYY-MM-DD, which a chat template writes where it would write today's date; one that "
        "does is refused without it",
    )
    packing: StrictBool = logical(
        False,
        "several chats in one sequence, each by itself (positions from 0, no look at another), "
        "none with an image; false: one chat in each, the rest is padding",
    )
    tokenizer: Text | None = logical(
        None,
        "`bytes` (256 ids), or a tokenizer.json, or a Hugging Face folder; null: that of "
        "model.path if the folder has one, else `bytes`",
    )
    allow_bytes: StrictBool = physical(
        False,
        "tokenizer `bytes` for a model.path whose vocabulary is larger, which is refused otherwise",
    )
    bos: Literal["auto", True, False] = logical(
        "auto",
        "whether each document begins with the tokenizer's beginning-of-sequence token; `auto`: "
        "as the tokenizer itself does",
    )
    sequence_length: Annotated[StrictInt, Field(gt=1, lt=2**31), WHOLE] = logical(
        256, "tokens in one sequence"
    )
    allow_longer_sequences: StrictBool = physical(
        False,
        "train on sequences longer than the model's max_position_embeddings, which are refused "
        "otherwise",
    )
    validation: Validation | None = logical(
        None, "hold out a part of the data and measure the loss on it"
    )

    @property
    def may_pad(self) -> bool:
        """Whether there may be tokens that only fill a sequence up."""
        return any(source.chat is not None for _, source in self.sources)

    @property
    def is_packed(self) -> bool:
        """Whether documents that must not look at each other may lie in one sequence."""
        return self.packing or self.document_masks

    @property
    def sources(self) -> tuple[tuple[KeyPath, SourceKeys], ...]:
        """The sources, each with its place in the job."""
        if not self.mixture:
            return ((("data",), self),)
        return tuple((("data", "mixture", n), entry) for n, entry in enumerate(self.mixture))
