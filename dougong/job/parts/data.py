"""The keys of `data`: where tokens come from, and what is learnt of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from dougong.job.section import WHOLE, Positive, Section, Text, logical, physical


class Validation(Section):
    """Which part of the data is held out and how often the loss on it is measured."""

    fraction: Annotated[StrictFloat, Field(gt=0, lt=1)] = logical(
        0.02, "part of the data that is never trained on"
    )
    every: Positive = physical(100, "measure after every so many steps")
    batches: Positive = physical(4, "batches that one measurement reads")


class Data(Section):
    """Where tokens come from: exactly one of `text`, `tokens`, `megatron`, `dataset`,
    `chat`.

    A relative path counts from the job file's folder; one given by `-o` from the current folder.
    """

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
