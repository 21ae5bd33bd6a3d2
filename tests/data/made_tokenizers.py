"""Small real tokenizers of the kinds that models come with."""

from __future__ import annotations

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "the brackets join unlike timbers without nails, and let a hall ride out an earthquake\n\n",
    "def bracket(timber):\n    return [nail for nail in timber if nail]\n\n\n\n",
    "斗拱是中国古代建筑中的结构，位于柱与梁之间。\n",
    "    x = 12345;  y = 67890\t\n\n\n\n\n\n\n\n",
] * 3
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(vocabulary: int = 600) -> tokenizers.Tokenizer:
    """As Llama 3, Qwen and GPT-4 have it: words by a pattern, then pairs of bytes."""
    made = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    made.train_from_iterator([*TEXT, "\n" * 32], trainer)
    return made


def unigram() -> tokenizers.Tokenizer:
    """As SentencePiece makes one: a mark before each word, the first too."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made


def llama() -> tokenizers.Tokenizer:
    """As Llama 2's: the mark is put before all of the text by a normalizer, and words are not cut."""
    made = tokenizers.Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.train_from_iterator([*TEXT, "\n" * 32], trainer)
    made.pre_tokenizer = None
    made.decoder = decoders.Metaspace()
    return made


def add_marks(made: tokenizers.Tokenizer, template: str = "<s> $A </s>") -> tokenizers.Tokenizer:
    """The same with a post-processor that puts special tokens around a text."""
    marks = [(mark, made.token_to_id(mark)) for mark in ("<s>", "</s>") if mark in template.split()]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    return made
