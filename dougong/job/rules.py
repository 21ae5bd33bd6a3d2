"""Rules that tie several fields of a job together. Each answers with the field, what clashes, and
the knob to turn.

A rule looks only at the sections it names, so that it can be asked about a job whose other sections
are wrong.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.job.schema import EXPERTS_PER_TOKEN_KEYS, Island, Job

EXPERT_COUNT_KEYS = ("num_experts", "n_routed_experts", "num_local_experts")
SOURCES = ("text", "tokens", "megatron", "dataset")


@dataclass(frozen=True)
class Breach:
    """A field that clashes with others, or with the files on this machine."""

    path: tuple[str | int, ...]
    text: str


def breaches(sections: Mapping[str, Any]) -> list[Breach]:
    """Every broken rule among the given (valid) sections of a job; rules that need a missing
    section are not asked."""
    job = Job.model_construct(None, **sections)
    return [found for needs, rule in _RULES if sections.keys() >= set(needs) for found in rule(job)]


def worker_names(islands: Iterable[Island]) -> list[str]:
    """All workers of the job, in rank order: `east/0`, `east/1`, `west/0`."""
    return [f"{island.name}/{index}" for island in islands for index in range(island.workers)]


def _workers(job: Job, role: str) -> int:
    return sum(island.workers for island in job.islands if island.role in (role, "both"))


def _one_source(job: Job) -> Iterator[Breach]:
    named = [key for key in SOURCES if getattr(job.data, key) is not None]
    if not named:
        yield Breach(
            ("data",), "names no source of tokens; add one of text, tokens, megatron, dataset"
        )
    for key in named[1:]:
        yield Breach(("data", key), f"a second source beside data.{named[0]}; keep one of them")


def _one_model(job: Job) -> Iterator[Breach]:
    if job.model.family is None and job.model.path is None:
        yield Breach(
            ("model",), "names no model; add `family: qwen3_moe` (or another), or `path: DIR`"
        )
    if job.model.family is not None and job.model.path is not None:
        yield Breach(("model", "path"), "a second model beside model.family; keep one of them")


def _island_names(job: Job) -> Iterator[Breach]:
    first: dict[str, int] = {}
    for index, island in enumerate(job.islands):
        if island.name in first:
            text = f"'{island.name}' is also the name of islands.{first[island.name]}; give each island its own name"
            yield Breach(("islands", index, "name"), text)
        first.setdefault(island.name, index)


def _roles(job: Job) -> Iterator[Breach]:
    for role in ("attention", "experts"):
        if not _workers(job, role):
            yield Breach(
                ("islands",),
                f"no island computes {role}; give one of them `role: {role}` or `role: both`",
            )


def _lanes(job: Job) -> Iterator[Breach]:
    workers = _workers(job, "attention")
    if job.batch.lanes < workers:
        yield Breach(
            ("batch", "lanes"),
            f"{job.batch.lanes} lanes for {workers} attention workers, and each needs one; raise batch.lanes to "
            f"{workers} or more, or lower islands.*.workers",
        )


def _experts(job: Job) -> Iterator[Breach]:
    config, workers = _model_config(job), _workers(job, "experts")
    for key, count in _counts(config, EXPERT_COUNT_KEYS):
        if count < workers:
            yield Breach(
                ("model", "config", key),
                f"{count} experts for {workers} experts workers, and each needs one; raise model.config.{key} to "
                f"{workers} or more, or lower islands.*.workers",
            )


def _offload(job: Job) -> Iterator[Breach]:
    roles = {island.role for island in job.islands}
    if job.offload not in ("none", 0) and not {"attention", "experts"} <= roles:
        text = f"{job.offload}, but nobody computes attention apart from experts; give islands `role: attention` and "
        yield Breach(("offload",), f"{text}`role: experts`, or remove it")
    elif job.offload == "auto":
        yield from (
            found for index, island in enumerate(job.islands) for found in _weighable(index, island)
        )


def _combine(job: Job) -> Iterator[Breach]:
    if job.combine == "at_experts" and job.determinism == "layout":
        text = "at_experts adds a token's answers worker by worker, so that bits depend on the layout; add"
        yield Breach(("combine",), f"{text} `determinism: run`, or leave it at at_attention")


def _pipeline(job: Job) -> Iterator[Breach]:
    if job.pipeline == "colocated" and any(island.role != "both" for island in job.islands):
        text = "colocated is for workers that compute attention and experts, and not all are `role: both`"
        yield Breach(("pipeline",), f"{text}; use zebra, af_pipe, serial or auto")


def _one_clock(job: Job) -> Iterator[Breach]:
    emulated = [island.emulate is not None for island in job.islands]
    for index, (island, pretends) in enumerate(zip(job.islands, emulated, strict=True)):
        if any(emulated) and not pretends:
            text = "the other islands are emulated; times would be of two kinds; give this one `emulate` too, or none"
            yield Breach(("islands", index), f"{island.name}: {text}")
        if pretends and island.accelerator != "cpu":
            text = f"only cpu workers pretend, and these are {island.accelerator}; remove it, or use accelerator: cpu"
            yield Breach(("islands", index, "emulate"), text)


def _weighable(index: int, island: Island) -> Iterator[Breach]:
    if island.speed is None and island.emulate is None:
        text = "offload: auto weighs attention against experts and needs it; paste what `dougong calibrate` says, or "
        yield Breach(("islands", index, "speed"), f"{text}give offload a number")
    if island.role == "both":
        yield Breach(
            ("islands", index, "role"), "offload: auto needs attention and experts apart everywhere"
        )


def _offload_fits(job: Job) -> Iterator[Breach]:
    workers, kept = _workers(job, "experts"), job.offload
    for key, count in _counts(_model_config(job), EXPERT_COUNT_KEYS):
        if isinstance(kept, int) and kept and kept > count - workers:
            text = f"{kept} of {count} experts (model.config.{key}) would leave less than one for each of {workers} "
            yield Breach(
                ("offload",), f"{text}experts workers; lower it to {max(0, count - workers)}"
            )


def _experts_per_token(job: Job) -> Iterator[Breach]:
    config = _model_config(job)
    for expert_key, count in _counts(config, EXPERT_COUNT_KEYS):
        for key, chosen in _counts(config, EXPERTS_PER_TOKEN_KEYS):
            if chosen > count:
                text = f"{chosen} experts per token out of {count}; lower it, or raise model.config.{expert_key}"
                yield Breach(("model", "config", key), text)


def _model_config(job: Job) -> dict[str, Any]:
    """The configuration as far as it can be read without transformers: the folder's, overlaid by
    the job's."""
    if job.model.path is None:
        return job.model.config
    try:
        found = json.loads((Path(job.model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None  # _model_folder reports it
    return {**found, **job.model.config} if isinstance(found, dict) else job.model.config


def _counts(config: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, int]]:
    return [(key, config[key]) for key in keys if type(config.get(key)) is int]


def _model_folder(job: Job) -> Iterator[Breach]:
    if job.model.path is None:
        return
    file = Path(job.model.path) / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            yield Breach(
                ("model", "path"), f"{file} holds no JSON object; copy the model's folder again"
            )
    except OSError as error:
        yield Breach(
            ("model", "path"),
            f"{file}: {error.strerror}; name a Hugging Face folder that is on this machine",
        )
    except ValueError as error:
        yield Breach(
            ("model", "path"), f"{file} is not JSON ({error}); copy the model's folder again"
        )


def _warm_up(job: Job) -> Iterator[Breach]:
    if job.schedule.warmup_steps > job.steps:
        text = f"{job.schedule.warmup_steps} steps of warm-up in {job.steps} steps; lower it, or raise steps"
        yield Breach(("schedule", "warmup_steps"), text)


def _constant_rate(job: Job) -> Iterator[Breach]:
    if job.schedule.name == "constant" and job.schedule.final_fraction not in (0.1, 1.0):
        text = "a constant schedule has no decay to a fraction; leave it out, or use name: cosine or linear"
        yield Breach(("schedule", "final_fraction"), text)


def _balance(job: Job) -> Iterator[Breach]:
    router = job.router
    if router.sequence_loss is not None and router.global_loss is not None:
        yield Breach(
            ("router", "global_loss"),
            "a second balance loss beside router.sequence_loss; keep one of them",
        )
    if router.computing_choices is not None and router.bias_rate is None:
        text = "nothing uses it without router.bias_rate; add bias_rate: 0.001, or remove it"
        yield Breach(("router", "computing_choices"), text)


def _drill_steps(job: Job) -> Iterator[Breach]:
    for index, drill in enumerate(job.drill):
        if drill.at_step > job.steps:
            text = f"step {drill.at_step} never begins in a job of {job.steps} steps; lower it, or raise steps"
            yield Breach(("drill", index, "at_step"), text)


def _drill_workers(job: Job) -> Iterator[Breach]:
    names = worker_names(job.islands)
    for index, drill in enumerate(job.drill):
        if drill.kill not in names:
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            text = f"no worker is called '{drill.kill}'; name one of {known}, or remove the drill"
            yield Breach(("drill", index, "kill"), text)


def _drills_once(job: Job) -> Iterator[Breach]:
    seen: set[tuple[int, str]] = set()
    for index, drill in enumerate(job.drill):
        if (drill.at_step, drill.kill) in seen:
            yield Breach(
                ("drill", index),
                f"{drill.kill} is killed at step {drill.at_step} already; remove one",
            )
        seen.add((drill.at_step, drill.kill))


def _data_files(job: Job) -> Iterator[Breach]:
    data = job.data
    if data.text is not None and data.text != "stdlib":
        yield from _text_file(data.text)
    if data.tokens is not None and not os.path.isfile(data.tokens):
        yield Breach(
            ("data", "tokens"), f"there is no file {data.tokens} on this machine; check the path"
        )
    missing = [end for end in (".bin", ".idx") if not os.path.isfile(f"{data.megatron}{end}")]
    if data.megatron is not None and missing:
        names = " and no file ".join(data.megatron + end for end in missing)
        yield Breach(("data", "megatron"), f"there is no file {names}; give the path without .bin")


def _text_file(text: str) -> Iterator[Breach]:
    path = ("data", "text")
    if os.path.isdir(text):
        yield Breach(
            path,
            f"{text} is a folder; name its files with a glob, such as {text.rstrip('/')}/**/*.txt",
        )
    elif not os.path.isfile(text) and not any(
        os.path.isfile(name) for name in glob.iglob(text, recursive=True)
    ):
        yield Breach(
            path,
            f"no file is called {text} or matches it as a glob; check the path, or use `stdlib`",
        )


def _tokenizer(job: Job) -> Iterator[Breach]:
    name, path = job.data.tokenizer, ("data", "tokenizer")
    ready = next(
        (key for key in ("tokens", "megatron") if getattr(job.data, key) is not None), None
    )
    if name == "bytes":
        return
    if ready is not None:
        yield Breach(
            path,
            f"data.{ready} holds token ids, so nothing is left to tokenise; remove data.tokenizer",
        )
    elif not os.path.exists(name):
        yield Breach(
            path, f"there is no {name}; give `bytes`, a tokenizer.json, or a Hugging Face folder"
        )


def _vocabulary(job: Job) -> Iterator[Breach]:
    ready = next(
        (key for key in ("tokens", "megatron") if getattr(job.data, key) is not None), None
    )
    if ready is not None and job.model.family is not None and "vocab_size" not in job.model.config:
        text = f"has no vocab_size, and data.{ready} does not say how many ids there are; add vocab_size: NUMBER"
        yield Breach(("model", "config"), text)


_RULES: tuple[tuple[tuple[str, ...], Callable[[Job], Iterator[Breach]]], ...] = (
    (("model",), _one_model),
    (("model",), _model_folder),
    (("model",), _experts_per_token),
    (("model", "islands"), _experts),
    (("islands", "offload"), _offload),
    (("combine", "determinism"), _combine),
    (("islands", "pipeline"), _pipeline),
    (("islands",), _one_clock),
    (("model", "islands", "offload"), _offload_fits),
    (("data",), _one_source),
    (("data",), _data_files),
    (("data",), _tokenizer),
    (("data", "model"), _vocabulary),
    (("batch", "islands"), _lanes),
    (("schedule",), _constant_rate),
    (("schedule", "steps"), _warm_up),
    (("router",), _balance),
    (("islands",), _island_names),
    (("islands",), _roles),
    (("drill", "steps"), _drill_steps),
    (("drill", "islands"), _drill_workers),
    (("drill",), _drills_once),
)
