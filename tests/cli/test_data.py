"""`dougong data` as a person types it."""

from __future__ import annotations

from pathlib import Path

from tests.chats import chat_tokenizer, many, write_chats
from tests.cli.test_fingerprint import dougong
from tests.launcher.jobs import write


def test_what_is_learnt_is_marked(tmp_path: Path) -> None:
    chat_tokenizer(tmp_path / "tokenizer")
    write_chats(tmp_path / "a.jsonl", many(9))
    job = write(
        tmp_path,
        model="{family: qwen3_moe}",
        data="{chat: a.jsonl, tokenizer: tokenizer, sequence_length: 128}",
        cache=str(tmp_path / "cache"),
    )
    done = dougong("data", job, "-n", "1")
    assert (done.returncode, done.stderr) == (0, "")
    title, text = done.stdout.split("\n", 1)
    assert title.startswith("--- step 1, lane 0, micro-batch 0, window ") and "of them learnt" in title
    assert "<|im_start|>assistant\n⟦it is " in text and text.rstrip().endswith("<|im_end|>\n⟧")
    write_chats(tmp_path / "a.jsonl", [{"messages": []}])
    wrong = dougong("data", job)
    assert wrong.returncode == 2 and "a.jsonl: line 1: messages: must be a list" in wrong.stderr
