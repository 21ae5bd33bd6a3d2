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
        ({"data": "{}"}, "data: names no source of tokens; add one of text, tokens, megatron, dataset, chat, mixture"),
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


MIXTURE = "{mixture: [%s], tokenizer: bytes}"


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ("{text: a.txt, weight: 0}", "data.mixture.0.weight: must be greater than 0.0 (got 0): its part of the"),
        ("{text: a.txt, weight: -1}", "data.mixture.0.weight: must be greater than 0.0 (got -1): "),
        ("{text: a.txt, weight: .nan}", "data.mixture.0.weight: must be a finite number (got .nan): "),
        ("{text: a.txt, weight: .inf}", "data.mixture.0.weight: must be a finite number (got .inf): "),
        ("{text: a.txt, weight: '3'}", "data.mixture.0.weight: must be a number (got '3'); write it without quotes"),
        ("{text: a.txt, weigth: 3}", "data.mixture.0.weigth: unknown key; did you mean 'weight'?"),
        (
            "{text: a.txt, weight: 1.0}, {text: b.txt, weight: 1.0e-10}",
            "data.mixture.1.weight: 1e-10 of 1 is less than one in a thousand million; raise it, or leave ",
        ),
        (
            "{text: a.txt, weight: 1.0e+308}, {text: b.txt, weight: 1.0}",
            "data.mixture.0.weight: 1e+308 is more than 1e+18; only the proportion to the other items counts, so give",
        ),
        (
            "{text: a.txt, epochs: 1.0e+308}, {text: b.txt, epochs: 1.0e+10}",
            "data.mixture.0.epochs: 1e+308 is more than 1e+18",
        ),
        (
            "{text: a.txt}, {text: b.txt, weight: 1.0}",
            "data.mixture.0: says not how much of it is read; add `weight: 1.0`",
        ),
        ("{text: a.txt}", "data.mixture.0: says not how much of it is read; add `weight: 1.0`, or another number"),
        (
            "{text: a.txt, epochs: 1.0}, {text: b.txt}",
            "data.mixture.1: says not how much of it is read; add `epochs: 1.0`",
        ),
        (
            "{text: a.txt, weight: 1.0}, {text: b.txt, epochs: 1.0}",
            "data.mixture.1.epochs: another item has weight: give all of them weights, or all of them epochs",
        ),
        (
            "{weight: 1.0}",
            "data.mixture.0: names no source of tokens; add one of text, tokens, megatron, dataset, chat",
        ),
        (
            "{text: a.txt, tokens: c.bin, weight: 1.0}",
            "data.mixture.0.tokens: a second source beside text; give it an item of its own, or remove it",
        ),
        (
            "{text: a.txt, weight: 1.0}, {text: '?.txt', weight: 2.0}",
            "data.mixture.1.text: HERE/a.txt is data of data.mixture.0 already, and what one of them ",
        ),
        (
            "{text: stdlib, weight: 1.0}, {text: stdlib, weight: 2.0}",
            "data.mixture.1.text: stdlib is data of data.mixture.0",
        ),
        (
            "{text: none.txt, weight: 1.0}",
            "data.mixture.0.text: no file is called HERE/none.txt or matches it as a glob",
        ),
        (
            "{tokens: d.bin, weight: 1.0}",
            "data.mixture.0.tokens: there is no file HERE/d.bin on this machine; check the",
        ),
        (
            "{text: a.txt, column: x, weight: 1.0}",
            "data.mixture.0.column: only a data.dataset has columns; remove it, or ",
        ),
        ("{chat: a.jsonl, weight: 1.0}", "data.mixture.0.chat: chats need a tokenizer with a chat template; name the "),
        (
            "{tokens: c.bin, document_end: 3, weight: 1.0}",
            "data.mixture.0.document_end: nothing uses it without data.doc",
        ),
    ],
)
def test_what_is_wrong_with_a_mixture_is_said_at_its_place(items: str, line: str, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.bin", "a.jsonl"):
        (tmp_path / name).write_text("{}")
    data = MIXTURE % items
    if "tokens" in items and "text" not in items:
        data = data.replace(", tokenizer: bytes", "")
    model = "{family: qwen3_moe, config: {vocab_size: 256}}"
    (found,) = refusals(write(tmp_path, model=model, data=data))
    assert found.startswith(line.replace("HERE", str(tmp_path)))


def test_a_mixture_is_a_source_beside_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    data = "{text: stdlib, mixture: [{text: a.txt, weight: 1.0}]}"
    assert refusals(write(tmp_path, data=data)) == ["data.mixture: a second source beside data.text; keep one of them"]


def test_one_data_set_may_be_mixed_by_two_of_its_columns(tmp_path: Path) -> None:
    rows = '{"a": "x", "b": "y"}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    item = "{dataset: a.jsonl, column: %s, weight: 1.0}"
    load_job(write(tmp_path, data=MIXTURE % f"{item % 'a'}, {item % 'b'}"))
    (line,) = refusals(write(tmp_path, data=MIXTURE % f"{item % 'a'}, {item % 'a'}"))
    assert line.startswith(f"data.mixture.1.dataset: {tmp_path}/a.jsonl is data of data.mixture.0 already")
