"""What is told of frozen tensors, adapters and groups before a run."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.errors import ModelError
from dougong.job.schema import Job
from dougong.models.inventory import inspect_model
from dougong.remarks import Remarks
from dougong.training.start.tuning_remarks import tuning_remarks
from tests.families import config_values
from tests.jobs import VOCAB, make_job


def told(model: dict[str, Any] | None = None, **optimizer: Any) -> Remarks:
    job: Job = make_job(
        model={"family": "qwen3_moe", "config": config_values("qwen3_moe")} | (model or {}),
        optimizer={"name": "adamw", "lr": 1e-2} | optimizer,
    )
    return tuning_remarks(job, inspect_model(job.model, VOCAB))


def test_a_job_that_trains_all_alike_is_told_nothing() -> None:
    assert told() == Remarks()


def test_how_much_is_trained_and_what_is_frozen() -> None:
    (note,) = told({"freeze": ["*.experts.*", "*embed*"]}).notes
    assert note.endswith("frozen are model.embed_tokens.*, model.layers.*.mlp.experts.*") and "%" in note


def test_adapters_are_told_with_the_ways_out() -> None:
    found = told({"lora": {"rank": 4, "alpha": 8.0}})
    share, adapters = found.notes
    assert share.endswith("; all else is frozen")
    assert found.warnings == ("model.lora: without model.path the frozen weights are random; name a trained model",)
    assert adapters.startswith("adapters of rank 4 on 18 matrices, scaled by 2;") and "--adapter" in adapters


def test_groups_are_told_with_their_tensors() -> None:
    groups = [{"match": "*norm*", "lr": 1e-3, "weight_decay": 0.0}, {"match": "*.experts.*"}, {"match": "*.norm.*"}]
    found = told(groups=groups)
    assert found.notes == (
        "optimizer.groups.0: 13 tensors (*norm*): lr 0.001, weight_decay 0",
        "optimizer.groups.1: 6 tensors (*.experts.*): as all",
    )
    (warning,) = found.warnings
    assert warning.startswith("optimizer.groups.2: every tensor that '*.norm.*' matches is of a group before it")


@pytest.mark.parametrize(
    ("model", "match", "words"),
    [
        ({}, "*nrom*", r"'\*nrom\*' matches no tensor of the model, such as .*norm.weight"),
        ({"freeze": ["*norm*"]}, "*norm*", r"'\*norm\*' matches tensors, but none that is trained"),
        ({}, "!*norm*", "'!\\*norm\\*': `!` is for lists of patterns"),
    ],
)
def test_a_group_without_a_trained_tensor_is_refused(model: dict[str, Any], match: str, words: str) -> None:
    with pytest.raises(ModelError, match=rf"optimizer\.groups\.0\.match: {words}"):
        told(model, groups=[{"match": match}])


def test_what_is_doubtful_is_warned_of() -> None:
    assert "nothing is frozen" in told({"freeze": ["!*norm*"]}).warnings[0]
    assert told({"freeze": []}).notes[0].endswith("; nothing is frozen")
    assert "model.lora.rank: 512 is no less than" in told({"lora": {"rank": 512}}).warnings[1]
