"""Which large tensors can be written piece by piece is asked of the family's converters."""

from __future__ import annotations

import pytest
from dougong.checkpoint.huggingface import Names
from dougong.job.optimizers.adamw import ADAMW
from dougong.models.configs.load import load_config
from dougong.models.inventory import inspect_model
from dougong.parallel import pieces
from dougong.parallel.pieces import pieces_of
from dougong.training.start.preflight import inspect_only
from dougong.training.start.stored_forms import with_stored_forms
from tests.families import FAMILIES, config_values
from tests.jobs import VOCAB, make_job

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("family", FAMILIES)
def test_families_files_have_dense_tensors_as_memory_has_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_NUMEL", 1024)
    job = make_job(family)
    inventory = inspect_model(job.model, VOCAB)
    assert with_stored_forms(inventory, job.model, load_config(job.model, VOCAB)) == inventory


def test_one_that_they_have_in_another_form_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No family of ours has one."""
    monkeypatch.setattr(Names, "is_stored_alike", lambda names, tensor: tensor != EMBEDDING)
    job = make_job(model={"family": "qwen3_moe", "config": config_values("qwen3_moe", vocab_size=262400)})
    inventory = inspect_only(job)
    cut = {t.name for t in inventory.tensors if len(pieces_of(t, ADAMW.is_elementwise)) > 1}
    assert cut == {"lm_head.weight"}
    small = inspect_only(make_job())
    assert all(tensor.is_stored_alike for tensor in small.tensors), "where nothing is large nobody is asked"
