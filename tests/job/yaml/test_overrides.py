"""Overrides: dotted paths over a job file, refused with themselves as the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.errors import JobError
from dougong.job.load import load_job
from tests.launcher.jobs import write

DRILLS = "[{at_step: 1, kill: east/0}, {at_step: 2, kill: east/1}]"


def get(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        (["batch.lanes=8"], "batch.lanes", 8),
        (["batch.lanes=8", "batch.lanes=4"], "batch.lanes", 4),
        (["islands.0.workers=1"], "islands.0.workers", 1),
        (["islands.east.workers=1"], "islands.0.workers", 1),
        (["islands.1={name: west, accelerator: npu}", "islands.west.threads=4"], "islands.1.threads", 4),
        (["islands.1.name=west", "islands.west.accelerator=cpu"], "islands.1.accelerator", "cpu"),
        (["islands=[{name: a, accelerator: cuda}]"], "islands.0.accelerator", "cuda"),
        (["model.config.num_experts=32"], "model.config", {"num_experts": 32, "num_experts_per_tok": 2}),
        (["model.config.rope.theta=1e6"], "model.config", {
            "num_experts": 4, "num_experts_per_tok": 2, "rope": {"theta": 1e6},
        }),
        (["checkpoint.every=5"], "checkpoint.every", 5),
        (["data.validation.every=5"], "data.validation.every", 5),
        (["data.validation={every: 5}", "data.validation=null"], "data.validation", None),
        (["drill=[]"], "drill", ()),
        (["drill.0.at_step=3"], "drill.0.at_step", 3),
        (["drill.1.kill=east/0"], "drill.1.kill", "east/0"),
        ([" steps =12"], "steps", 12),
        (["job=a-b"], "job", "a-b"),
        (["optimizer.clip_norm="], "optimizer.clip_norm", None),
        (["optimizer.betas.1=0.99"], "optimizer.betas", (0.9, 0.99)),
    ],
)  # fmt: skip
def test_values_are_laid_over_the_file(tmp_path: Path, override: list[str], path: str, value: Any) -> None:
    drills = DRILLS if path.startswith("drill") else "[]"
    job = load_job(write(tmp_path, drill=drills, optimizer="{betas: [0.9, 0.95]}", batch="{lanes: 3}"), override).job
    assert get(job, path) == value


def test_a_list_can_be_begun(tmp_path: Path) -> None:
    job = load_job(write(tmp_path), ["drill.0.at_step=3", "drill.0.kill=east/1"]).job
    assert [(drill.at_step, drill.kill) for drill in job.drill] == [(3, "east/1")]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("batch.lanez=8", "batch.lanez: unknown key; did you mean 'lanes'?"),
        ("batch.lanes=x", "batch.lanes: must be a whole number (got 'x'): logical data-parallel shards; each attention "
         "worker runs one or more of them"),
        ("batch.lanes='8'", "batch.lanes: must be a whole number (got '8'); write it without quotes"),
        ("lanes=8", "lanes: unknown key; did you mean 'batch.lanes'?"),
        ("batch.steps=8", "batch.steps: unknown key; did you mean 'steps' at the top level?"),
        ("data.name=x", "data.name: unknown key; did you mean 'optimizer.name' or 'schedule.name' or 'islands.name'?"),
        ("fault.retries=1",
         "fault.retries: unknown key; known here are max_restarts, per_hour, actions, quarantine, "
         "without_spare, non_finite, audit, max_skips, snapshots, deadlines"),
        ("batsh.lanes=8", "batsh: unknown key; did you mean 'batch'?"),
        ("checkpoint={evry: 3}", "checkpoint.evry: unknown key; did you mean 'every'?"),
        ("batch", "an override is KEY=VALUE, such as -o batch.lanes=8"),
        ("=8", "an override is KEY=VALUE, such as -o batch.lanes=8"),
        ("batch..lanes=8", "an override is KEY=VALUE, such as -o batch.lanes=8"),
        ("islands.2.workers=8", "islands.2.workers: islands has no 2; it has east"),
        ("islands.west.workers=8", "islands.west.workers: islands has no west; it has east"),
        ("steps.x=8", "steps.x: steps is 10, not a section; override it whole"),
        ("drill.east=8", "drill: must be a list, each item a mapping with the keys at_step, after_s, kill, fault, on, "
         "for_s (got {east: 8})"),
        ("batch={lanes: 2, lanes: 3}", "batch.lanes: given twice, first on line 1; keep one (column 12 of the value)"),
        ("batch={lanes: 2", "batch: not YAML: while parsing a flow mapping, expected ',' or '}', but got "
         "'<stream end>'; "
         "close every [ and {, and put a comma between their values (column 10 of the value)"),
        ("model.config.tie_word_embeddings=no", "model.config.tie_word_embeddings: yes, no, on and off are text in "
         "YAML 1.2; write true or false, or put it in quotes"),
        ("data.text=none*.txt", None),
        ("data.text=*.none", None),
    ],
)  # fmt: skip
def test_a_wrong_override_is_its_own_place(tmp_path: Path, override: str, line: str | None) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(tmp_path), [override])
    (said,) = str(caught.value).splitlines()
    if line is None:
        assert said.startswith(
            f"-o {override}: data.text: no file is called {Path.cwd()}/{override[10:]} or matches it"
        )
    else:
        assert said == f"-o {override}: {line}"


def test_mistakes_of_file_and_overrides_come_together_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, steps="x", seed="y")
    with pytest.raises(JobError) as caught:
        load_job(path, ["batch.lanez=8", "batch.lanes=0", "seed=3", "x"])
    places = [line.split(": ")[0].replace(f"{path}", "job.yaml") for line in str(caught.value).splitlines()]
    assert places == ["job.yaml:5:8", "-o batch.lanez=8", "-o batch.lanes=0", "-o x"]


def test_a_terminal_is_not_upset(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(tmp_path), ["batch.\x1b[2J=8"])
    assert "\\x1b[2J" in str(caught.value) and str(caught.value).isprintable()
