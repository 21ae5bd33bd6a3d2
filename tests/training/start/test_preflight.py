"""Looking at a real model and real data before any worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.control.messages import decode, encode
from dougong.control.worker_messages import ModelFound
from dougong.data.windows import open_data
from dougong.errors import DataError, ModelError
from dougong.job.parts.router import Router
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory
from dougong.training.start.preflight import inspect, inspect_only, preview, remarks_on, vocabulary_of
from tests.data.made_tokenizers import add_marks, byte_level
from tests.families import SMALLEST


def job(data: dict[str, Any], **config: Any) -> Job:
    return Job.model_validate(
        {
            "job": "look",
            "model": {"family": "qwen3_moe", "config": {**SMALLEST, **config}},
            "data": {"sequence_length": 8, **data},
            "steps": 1,
            "islands": [{"name": "east", "accelerator": "cpu"}],
        }
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("all work and no play " * 100)
    return file


def test_an_inventory_survives_the_way_to_the_controller(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where tokenised text is kept
    looked = inspect(job({"text": str(text)}))
    assert looked.data["windows"] == (21 * 100 + 1) // 8  # a byte 0 ends the document
    found = looked.inventory
    assert (found.family, found.num_experts, len(found.sites)) == ("qwen3_moe", 4, 2)
    assert decode(encode(ModelFound(found, dict(looked.data)))).inventory == found
    assert inspect_only(job({"text": str(text)})) == found


def test_a_token_outside_the_vocabulary_is_found(tmp_path: Path) -> None:
    file = tmp_path / "corpus.bin"
    np.array([1, 2, 3, 99] * 50, np.uint16).tofile(file)
    with pytest.raises(DataError, match="99"):
        inspect(job({"tokens": str(file)}, vocab_size=50))


def test_token_files_need_a_vocabulary_from_somebody(tmp_path: Path) -> None:
    file = tmp_path / "corpus.bin"
    np.array([1, 2, 3, 4] * 50, np.uint16).tofile(file)
    with pytest.raises(DataError, match=r"model\.config\.vocab_size"):
        vocabulary_of(job({"tokens": str(file)}))
    assert vocabulary_of(job({"tokens": str(file)}, vocab_size=77)) == 77


def test_a_wrong_model_is_found(text: Path) -> None:
    with pytest.raises(ModelError, match="num_expert_layers"):
        inspect_only(job({"text": str(text)}, num_expert_layers=3))


def test_a_balance_that_the_family_cannot_have_is_found(text: Path) -> None:
    asked = job({"text": str(text)}).model_copy(update={"router": Router(bias_rate=0.001)})
    with pytest.raises(ModelError, match="qwen3_moe has no bias .* use router.global_loss"):
        inspect_only(asked)


def test_an_unwritable_cache_is_told_and_costs_only_probes(text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    asked = job({"tokens": str(tmp_path / "x.bin")}).model_copy(update={"cache": str(tmp_path / "file")})
    (told,) = remarks_on(asked, Inventory("toy", (), (), 4, ())).warnings
    assert told.startswith(f"{tmp_path / 'file'}: the cache cannot be written: {tmp_path / 'file'} is not a directory")
    assert "probes the devices anew; name another folder: `cache: FOLDER`" in told


def test_layers_that_run_again_beside_kernels_without_fixed_bits_are_warned_of(text: Path) -> None:
    plain = job({"text": str(text)})
    inventory = inspect_only(plain)
    told = {}
    for determinism in ("off", "run"):
        asked = plain.model_copy(update={"recompute": "layers", "determinism": determinism})
        told[determinism] = [line for line in remarks_on(asked, inventory).warnings if "recompute" in line]
    assert told["run"] == [] and told["off"][0].endswith("set recompute: none, or begin a run with determinism: run")


def test_tokens_lie_in_the_job_s_cache(text: Path, tmp_path: Path) -> None:
    asked = job({"text": str(text)}).model_copy(update={"cache": str(tmp_path / "mine")})
    open_data(asked, 256)
    assert len(list((tmp_path / "mine" / "tokens").iterdir())) == 1


def test_more_positions_than_the_family_has_are_refused_without_the_job_saying_how_many(text: Path) -> None:
    long = {"text": str(text), "sequence_length": 129}
    with pytest.raises(ModelError, match=r"data\.sequence_length: 129 tokens .* positions for 128"):
        inspect_only(job(long, max_position_embeddings=128))
    assert inspect_only(job({**long, "allow_longer_sequences": True}, max_position_embeddings=128)).num_experts == 4
    with pytest.raises(ModelError, match="40000 tokens .* positions for 32768"):
        inspect_only(job({"text": str(text), "sequence_length": 40_000}))


def test_a_plan_finds_what_is_too_short_and_tells_what_a_run_tells(text: Path, tmp_path: Path) -> None:
    made = add_marks(byte_level(300), "$A")
    (tmp_path / "tok").mkdir()
    made.save(str(tmp_path / "tok" / "tokenizer.json"))
    data = {"text": str(text), "tokenizer": str(tmp_path / "tok")}
    asked = job(data, vocab_size=299)
    inventory = inspect_only(asked)
    line, told = preview(asked, inventory)
    assert "tokens and more, enough for the first step" in line
    assert told == remarks_on(asked, inventory)
    separator, larger = told.warnings
    assert "nothing separates a document from the next" in separator
    assert f"has {made.get_vocab_size()} ids, qwen3_moe's vocabulary 299" in larger
    short = job({**data, "sequence_length": 3000}, vocab_size=299)
    with pytest.raises(DataError, match="tokens give 0 windows of 3000"):
        preview(short, inspect_only(short))
