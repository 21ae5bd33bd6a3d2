"""Rules that tie fields together, and fields to the files of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.errors import JobError
from dougong.job.load import load_job
from dougong.job.rule import worker_names
from dougong.job.schema import Island
from tests.launcher.jobs import write

TWO = "[{name: a, accelerator: cuda, workers: %d, role: %s}, {name: b, accelerator: npu, workers: %d, role: %s}]"


def refusals(path: Path, *override: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(path, override)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]


def test_worker_names() -> None:
    islands = [Island(name="east", accelerator="cpu", workers=2), Island(name="west", accelerator="npu")]
    assert worker_names(islands) == ["east/0", "east/1", "west/0"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch": "{lanes: 1}"}, "batch.lanes: 1 lanes for 2 attention workers, and each needs one; raise "
         "batch.lanes to "
         "2 or more, or lower islands.*.workers"),
        ({"islands": TWO % (3, "attention", 1, "experts")}, "batch.lanes: 2 lanes for 3 attention workers, and "
         "each needs "
         "one; raise batch.lanes to 3 or more, or lower islands.*.workers"),
        ({"islands": TWO % (1, "attention", 5, "experts")}, "model.config.num_experts: 4 experts for 5 experts "
         "workers, "
         "and each needs one; raise model.config.num_experts to 5 or more, or lower islands.*.workers"),
        ({"islands": TWO % (1, "attention", 1, "attention")},
         "islands: no island computes experts; give one of them `role: experts` or `role: both`"),
        ({"islands": TWO % (1, "experts", 1, "experts")},
         "islands: no island computes attention; give one of them `role: attention` or `role: both`"),
        ({"islands": "[{name: a, accelerator: cpu}, {name: a, accelerator: cpu}]"},
         "islands.1.name: 'a' is also the name of islands.0; give each island its own name"),
        ({"islands": "[]"}, "islands: must not be empty (got []): groups of like devices"),
        ({"model": "{family: x, config: {n_routed_experts: 4, num_experts_per_tok: 5}}"},
         "model.config.num_experts_per_tok: 5 experts per token out of 4; lower it, or raise "
         "model.config.n_routed_experts"),
        ({"model": "{family: mixtral, config: {num_local_experts: 1}}"}, "model.config.num_local_experts: 1 "
         "experts for 2 "
         "experts workers, and each needs one; raise model.config.num_local_experts to 2 or more, or lower "
         "islands.*.workers"),
        ({"model": "{}"}, "model: names no model; add `family: qwen3_moe` (or another), or `path: DIR`"),
        ({"data": "{}"}, "data: names no source of tokens; add one of text, tokens, megatron, dataset"),
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
        ({"offload": "1"}, "offload: 1, but nobody computes attention apart from experts; give islands `role: "
         "attention` and `role: experts`, or remove it"),
        ({"offload": "3", "islands": TWO % (1, "attention", 2, "experts")}, "offload: 3 of 4 experts "
         "(model.config.num_experts) would leave less than one for each of 2 experts workers; lower it to 2"),
        ({"combine": "at_experts"}, "combine: at_experts adds a token's answers worker by worker, so that bits depend "
         "on the layout; add `determinism: run`, or leave it at at_attention"),
        ({"pipeline": "colocated", "islands": TWO % (1, "attention", 1, "experts")}, "pipeline: colocated is for "
         "workers that compute attention and experts, and not all are `role: both`; use zebra, af_pipe, serial "
         "or auto"),
        ({"islands": "[{name: a, accelerator: cpu, emulate: {attention_ms: 1, expert_ms_per_1k_tokens: 2.5}}, "
          "{name: b, accelerator: cpu}]"}, "islands.1: b: the other islands are emulated; times would be of two kinds; "
         "give this one `emulate` too, or none"),
        ({"islands": "[{name: a, accelerator: npu, emulate: {attention_ms: 1, expert_ms_per_1k_tokens: 2.5}}]"},
         "islands.0.emulate: only cpu workers pretend, and these are npu; remove it, or use accelerator: cpu"),
        ({"offload": "-1"}, "offload: must be at least 0 (got -1): experts of every layer that workers of role "
         "attention keep beside it: a number of them; `auto`: as many as fill the time that they would wait for the "
         "experts workers, by islands.*.speed (HeterMoE, arXiv 2504.03871)"),
        ({"offload": "all"}, "offload: must be 'none' or 'auto' (got 'all'); use one of them"),
        ({"drill": "[{at_step: 11, kill: east/1}]"},
         "drill.0.at_step: step 11 never begins in a job of 10 steps; lower it, or raise steps"),
        ({"drill": "[{at_step: 1, kill: east/2}]"},
         "drill.0.kill: no worker is called 'east/2'; name one of east/0, east/1, or remove the drill"),
        ({"drill": "[{at_step: 1, kill: east/0}, {at_step: 1, kill: east/0}]"},
         "drill.1: east/0 is killed at step 1 already; remove one"),
    ],
)  # fmt: skip
def test_what_clashes_is_told_with_its_knob(tmp_path: Path, changes: dict[str, str], line: str) -> None:
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
        {"drill": "[{at_step: 10, kill: east/1}, {at_step: 10, kill: east/0}]"},
        {"precision": "bfloat16"},
    ],
)
def test_what_fits_is_let_through(tmp_path: Path, changes: dict[str, str]) -> None:
    assert load_job(write(tmp_path, **changes)).job.job == "small"


def test_data_files(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("texts/a.txt", "ids.bin", "corpus.bin", "corpus.idx", "half.bin", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    model = "{family: qwen3_moe, config: {vocab_size: 99}}"
    here = tmp_path
    good = ["text: texts/a.txt", "text: 'texts/*.txt'", "text: '**/*.txt'", "tokens: ids.bin", "megatron: corpus",
            "text: stdlib, tokenizer: tokenizer.json", "dataset: some/name"]  # fmt: skip
    for data in good:
        load_job(write(tmp_path, model=model, data=f"{{{data}}}"))
    bad = {
        "text: none.txt": f"data.text: no file is called {here}/none.txt or matches it as a glob; check the "
        f"path, or use "
        "`stdlib`",
        "text: texts": f"data.text: {here}/texts is a folder; name its files with a glob, such as "
        f"{here}/texts/**/*.txt",
        "tokens: texts": f"data.tokens: there is no file {here}/texts on this machine; check the path",
        "megatron: half": f"data.megatron: there is no file {here}/half.idx; give the path without .bin",
        "megatron: corpus.bin": f"data.megatron: there is no file {here}/corpus.bin.bin and no file "
        f"{here}/corpus.bin.idx; "
        "give the path without .bin",
        "text: stdlib, tokenizer: gpt2": f"data.tokenizer: there is no {here}/gpt2; give `bytes`, a "
        f"tokenizer.json, or a "
        "Hugging Face folder",
        "tokens: ids.bin, tokenizer: tokenizer.json": "data.tokenizer: data.tokens holds token ids, so nothing "
        "is left to "
        "tokenise; remove data.tokenizer",
    }
    for data, line in bad.items():
        assert refusals(write(tmp_path, model=model, data=f"{{{data}}}")) == [line]


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/a", "a\\0b"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    for section in ("data", "model"):
        key = "text" if section == "data" else "path"
        assert refusals(write(tmp_path, **{section: f'{{{key}: "{name}"}}'}))[0].startswith(f"{section}.{key}: ")


def test_token_files_need_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_text("x")
    assert refusals(write(tmp_path, data="{tokens: ids.bin}")) == [
        "model.config: has no vocab_size, and data.tokens does not say how many ids there are; add vocab_size: NUMBER"
    ]


def test_a_model_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    path = write(tmp_path, model="{path: model}")
    assert refusals(path) == [
        f"model.path: {folder}/config.json: No such file or directory; name a Hugging Face folder that is on "
        f"this machine"
    ]
    folder.mkdir()
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusals(path)[0]
    (folder / "config.json").write_text("[]")
    assert "holds no JSON object" in refusals(path)[0]
    (folder / "config.json").write_text(json.dumps({"num_experts": 1}))
    assert "1 experts for 2 experts workers" in refusals(path)[0]
    assert load_job(path, ["model.config.num_experts=2"]).job.model.path == str(folder)
    assert refusals(path, "model.family=mixtral", "model.config.num_experts=2") == [
        "model.path: a second model beside model.family; keep one of them"
    ]


def test_auto_offload_needs_speeds_and_roles_apart(tmp_path: Path) -> None:
    rates = "speed: {attention: 2.0, experts: 1.0}"
    islands = "[{name: a, accelerator: cpu, role: attention, %s}, {name: b, accelerator: cpu, role: experts%s}%s]"
    assert load_job(write(tmp_path, offload="auto", islands=islands % (rates, f", {rates}", ""))).job.offload == "auto"
    third = f", {{name: c, accelerator: cpu, {rates}}}"
    assert refusals(write(tmp_path, offload="auto", islands=islands % (rates, "", third))) == [
        "islands.1.speed: offload: auto weighs attention against experts and needs it; paste what `dougong calibrate` "
        "says, or give offload a number",
        "islands.2.role: offload: auto needs attention and experts apart everywhere",
    ]
