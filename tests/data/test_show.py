"""What a run reads, as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dougong.data.show import ShownText, first_sequences
from tests.jobs import make_job
from tests.test_fine_tuning import chat_job


def test_chats_are_shown_with_what_is_learnt(tmp_path: Path) -> None:
    shown = list(first_sequences(chat_job(tmp_path), 5))
    assert len(shown) == 5
    for one in shown:
        text = "".join(piece.text for piece in one.pieces)
        assert text.startswith("<|im_start|>user\n") and "<pad>" not in text
        learnt = [piece.text for piece in one.pieces if piece.is_learnt]
        assert learnt and all(piece.endswith("<|im_end|>\n") and "<|im_start|>" not in piece for piece in learnt)
    assert shown[0].title.startswith("step 1, lane 0, micro-batch 0, window ")
    assert shown[2].title.startswith("step 1, lane 0, micro-batch 1, window ")
    assert shown[4].title.startswith("step 1, lane 1, micro-batch 0, window ")
    assert "of them learnt, " in shown[0].title and shown[0].title.endswith("more are padding")


def test_of_text_all_is_learnt_and_of_ids_the_ids_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd" * 100)
    job = make_job(
        data={"text": str(tmp_path / "a.txt"), "tokenizer": "bytes", "sequence_length": 8}, cache=str(tmp_path)
    )
    (one,) = first_sequences(job, 1)
    assert one.pieces == (ShownText("abcdabcd", True),) and one.title.endswith(": 8 tokens, 8 of them learnt")
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = make_job(data={"tokens": str(tmp_path / "ids.bin"), "sequence_length": 4})
    (one,) = first_sequences(ids, 1)
    assert len(one.pieces[0].text.split()) == 4
