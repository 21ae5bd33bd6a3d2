"""Small folders of text, and what becomes of them."""

from pathlib import Path

from dougong.data.documents.text import Corpus
from dougong.data.token_cache import open_corpus
from dougong.data.tokenizer import Bytes


def tokens_of(corpus: Corpus, cache: Path) -> bytes:
    tokens = open_corpus(corpus, Bytes(), cache)
    return bytes(tokens.read(0, tokens.num_tokens).tolist())


def write_files(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder
