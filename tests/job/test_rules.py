"""Rules that tie fields of a job together, and when they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.job.load import load_job
from dougong.job.rules import breaches
from dougong.job.schema import Job
from tests.job.refusing import TWO, refusals
from tests.job.test_schema import LEAST
from tests.launcher.jobs import write


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": "{family: x, config: {n_routed_experts: 4, num_experts_per_tok: 5}}"},
         "model.config.num_experts_per_tok: 5 experts per token out of 4; lower it, or raise "
         "model.config.n_routed_experts"),
        ({"model": "{family: x, config: {moe_num_experts: 4, num_experts_per_tok: 5}}"},
         "model.config.num_experts_per_tok: 5 experts per token out of 4; lower it, or raise "
         "model.config.moe_num_experts"),
        ({"model": "{}"}, "model: names no model; add `family: qwen3_moe` (or another), or `path: DIR`"),
        ({"data": "{}"}, "data: names no source of tokens; add one of text, tokens, megatron, dataset, chat"),
        ({"data": "{text: stdlib, dataset: a/b}"}, "data.dataset: a second source beside data.text; keep one of them"),
        ({"router": "{sequence_loss: 0.1, global_loss: 0.1}"},
         "router.global_loss: a second balance loss beside router.sequence_loss; keep one of them"),
        ({"router": "{computing_choices: 8.0}"}, "router.computing_choices: nothing uses it without router.bias_rate; "
         "add bias_rate: 0.001, or remove it"),
        ({"schedule": "{warmup_steps: 11}"},
         "schedule.warmup_steps: 11 steps of warm-up in 10 steps; lower it, or raise steps"),
        ({"schedule": "{name: constant, final_fraction: 0.5}"}, "schedule.final_fraction: a constant schedule "
         "has no decay "
         "to a fraction; leave it out, or use name: cosine or linear"),
        ({"schedule": "{name: constant, decay_steps: 5}"}, "schedule.decay_steps: a constant schedule has no decay; "
         "leave it out, or use name: cosine or linear"),
        ({"schedule": "{warmup_steps: 6, decay_steps: 5}"}, "schedule.decay_steps: the decay ends at step 5, within 6 "
         "steps of warm-up; raise it, or lower schedule.warmup_steps"),
        ({"combine": "at_experts"}, "combine: at_experts adds a token's outputs worker by worker, so that bits depend "
         "on the layout; add `determinism: run`, or leave it at at_attention"),
    ],
)  # fmt: skip
def test_what_clashes_is_said_with_its_knob(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    assert refusals(write(tmp_path, **changes)) == [line]


@pytest.mark.parametrize(
    "changes",
    [
        {"islands": TWO % (2, "attention", 4, "experts")},
        {"islands": TWO % (1, "both", 3, "experts")},
        {"islands": TWO % (2, "experts", 2, "attention")},
        {"batch": "{lanes: 2}", "steps": "3", "schedule": "{warmup_steps: 3}"},
        {"model": "{family: llama4, config: {}}"},
        {"schedule": "{name: constant}"},
        {"schedule": "{name: constant, final_fraction: 1.0}"},
        {"schedule": "{warmup_steps: 6, decay_steps: 6}"},
        {"schedule": "{decay_steps: 7}"},
        {"schedule": "{decay_steps: 700}"},
        {"drill": "[{at_step: 10, kill: east/1}, {at_step: 10, kill: east/0}]"},
        {"precision": "bfloat16"},
    ],
)
def test_what_fits_is_let_through(tmp_path: Path, changes: dict[str, str]) -> None:
    assert load_job(write(tmp_path, **changes)).job.job == "small"


def test_a_rule_is_asked_only_when_all_its_sections_are_valid() -> None:
    job = Job.model_validate({**LEAST, "schedule": {"warmup_steps": 5}})
    sections = {name: getattr(job, name) for name in Job.model_fields}
    assert [breach.path for breach in breaches(sections)] == [("schedule", "warmup_steps")]
    assert breaches({name: value for name, value in sections.items() if name != "steps"}) == []


APART = "[{name: a, accelerator: %s, role: attention}, {name: b, accelerator: %s, role: experts}]"
MODEL = "{family: qwen3_moe, config: {num_experts: 4}, attention: %s}"


@pytest.mark.parametrize(
    ("attention", "islands", "line"),
    [
        ("flex", APART % ("cpu", "cuda"), "model.attention: torch's flexible attention has no backward on processors, "
         "and island a computes attention on them; take sdpa, or auto"),
        ("flash", APART % ("cpu", "cpu"), "model.attention: flash_attn has no kernels for processors, and island a "
         "computes attention on them; take sdpa, or auto"),
        ("flash", APART % ("cuda", "cpu"), "model.attention: flash_attn computes in half precision alone; set "
         "precision: bfloat16, or take sdpa, or auto"),
    ],
)  # fmt: skip
def test_a_form_that_the_devices_or_the_precision_cannot_have_is_refused(
    tmp_path: Path, attention: str, islands: str, line: str
) -> None:
    job = write(tmp_path, model=MODEL % attention, islands=islands)
    assert line in refusals(job)


def test_flash_attention_parts_documents_in_micro_batches_of_one_sequence(tmp_path: Path) -> None:
    path = write(
        tmp_path, model=MODEL % "flash", islands=APART % ("cuda", "cpu"), precision="bfloat16",
        data="{text: stdlib, document_masks: true}", batch="{microbatch_size: 2}",
    )  # fmt: skip
    (line,) = refusals(path)
    assert line.startswith("model.attention: transformers' flash attention tells documents apart by their positions in")
    load_job(path, ["batch.microbatch_size=1"])


@pytest.mark.parametrize(
    ("attention", "islands"),
    [("flex", APART % ("cuda", "cpu")), ("auto", APART % ("cpu", "cpu")), ("eager", APART % ("cpu", "cuda"))],
)
def test_others_are_good(tmp_path: Path, attention: str, islands: str) -> None:
    assert load_job(write(tmp_path, model=MODEL % attention, islands=islands)).job.model.attention == attention
