"""Rules that tie several fields of a job together. Each answers with the field, what clashes, and
the knob to turn.

A rule looks only at the sections it names, so that it can be asked about a job whose other sections
are wrong. Those about islands are in `layout_rules`, those about faults in `fault_rules`, those
about files in `file_rules`, those about tokenizers in `tokenizer_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dougong.accelerators.registry import get_accelerator
from dougong.errors import DeviceError
from dougong.job.fault_rules import FAULT_RULES
from dougong.job.file_rules import FILE_RULES
from dougong.job.layout_rules import LAYOUT_RULES
from dougong.job.optimizers.adamw import AdamW
from dougong.job.parts.data import SOURCES, MixtureSource
from dougong.job.rule import (
    EXPERT_COUNT_KEYS,
    Breach,
    Rule,
    config_place,
    counts,
    model_config,
)
from dougong.job.schema import EXPERTS_PER_TOKEN_KEYS, Job
from dougong.job.tokenizer_rules import TOKENIZER_RULES
from dougong.job.yaml.locations import KeyPath

_ATTENTION = ("model", "attention")
NOT_ON_PROCESSORS = {
    "flex": "torch's flexible attention has no backward on processors",
    "flash": "flash_attn has no kernels for processors",
}
_FAST_ENOUGH = "take sdpa, or auto"
FLASH_OF_DOCUMENTS = (
    "transformers' flash attention tells documents apart by their positions in a micro-batch of "
    "one sequence alone (data.packing, data.document_masks); set batch.microbatch_size: 1, or take "
    "sdpa, or auto"
)
_SHARES = ("weight", "epochs")
_LEAST_SHARE = 1e-9
_LARGEST_SHARE = 1e18
"""Sums and products of such numbers are exact enough, and finite."""
_LARGEST_HALF_BETA = 1 - 2**-8
"""Of a moment in bfloat16: half of its last place is between 2**-9 and 2**-8 of it."""


def breaches(sections: Mapping[str, Any], more: Sequence[Rule] = ()) -> list[Breach]:
    """Every broken rule among the given (valid) sections of a job, also of `more` rules; those that
    need a missing section are not asked."""
    job = Job.model_construct(None, **sections)
    found: list[Breach] = []
    for rule in (*_RULES, *more):
        if sections.keys() >= set(rule.sections):
            found += rule.check(job)
    return found


def _one_model(job: Job) -> Iterator[Breach]:
    if job.model.family is None and job.model.path is None:
        text = "names no model; add `family: qwen3_moe` (or another), or `path: DIR`"
        yield Breach(("model",), text)
    if job.model.family is not None and job.model.path is not None:
        yield Breach(("model", "path"), "a second model beside model.family; keep one of them")


def _one_source(job: Job) -> Iterator[Breach]:
    given = [key for key in SOURCES if getattr(job.data, key) is not None]
    named = [*given, "mixture"] if job.data.mixture else given
    if not named:
        text = f"names no source of tokens; add one of {', '.join(SOURCES)}, mixture"
        yield Breach(("data",), text)
    for key in named[1:]:
        yield Breach(("data", key), f"a second source beside data.{named[0]}; keep one of them")


def _one_source_each(job: Job) -> Iterator[Breach]:
    """Of the sources of a mixture."""
    for number, entry in enumerate(job.data.mixture):
        place: KeyPath = ("data", "mixture", number)
        named = [key for key in SOURCES if getattr(entry, key) is not None]
        if not named:
            text = f"names no source of tokens; add one of {', '.join(SOURCES)}"
            yield Breach(place, text)
        for key in named[1:]:
            text = f"a second source beside {named[0]}; give it an item of its own, or remove it"
            yield Breach((*place, key), text)


def _is_given(key: str, mixture: Iterable[MixtureSource]) -> bool:
    return any(getattr(entry, key) is not None for entry in mixture)


def _shares(job: Job) -> Iterator[Breach]:
    """How much is read of each source of a mixture: by weights or by epochs."""
    mixture = job.data.mixture
    keys = [key for key in _SHARES if _is_given(key, mixture)]
    asked = keys[0] if keys else _SHARES[0]
    weights = [getattr(entry, asked) or 0.0 for entry in mixture]
    # Beside one that is too large, nothing is told of the others.
    least = _LEAST_SHARE * sum(weights) if max(weights, default=0.0) <= _LARGEST_SHARE else 0.0
    for number, entry in enumerate(mixture):
        place: KeyPath = ("data", "mixture", number)
        if len(keys) > 1 and getattr(entry, keys[1]) is not None:
            text = f"another item has {keys[0]}: give all of them weights, or all of them epochs"
            yield Breach((*place, keys[1]), text)
        elif weights[number] == 0.0:
            text = f"says not how much of it is read; add `{asked}: 1.0`, or another number"
            yield Breach(place, text)
        elif weights[number] > _LARGEST_SHARE:
            text = (
                f"{weights[number]:g} is more than {_LARGEST_SHARE:g}; only the proportion to the "
                "other items counts, so give all of them smaller numbers"
            )
            yield Breach((*place, asked), text)
        elif weights[number] < least:
            text = (
                f"{weights[number]:g} of {sum(weights):g} is less than one in a thousand million; "
                "raise it, or leave the source out"
            )
            yield Breach((*place, asked), text)


def _experts_per_token(job: Job) -> Iterator[Breach]:
    config = model_config(job)
    chosen_counts = counts(config, EXPERTS_PER_TOKEN_KEYS)
    for expert_key, count in counts(config, EXPERT_COUNT_KEYS):
        for key, chosen in chosen_counts:
            if chosen > count:
                advice = f"lower it, or raise model.config.{expert_key}"
                text = f"{chosen} experts per token out of {count}; {advice}"
                yield Breach(config_place(job, key), text)


def _combine(job: Job) -> Iterator[Breach]:
    if job.combine == "at_experts" and job.is_layout_free:
        text = (
            "at_experts adds a token's outputs worker by worker, so that bits depend on the "
            "layout; add `determinism: run`, or leave it at at_attention"
        )
        yield Breach(("combine",), text)


def _warm_up(job: Job) -> Iterator[Breach]:
    warmup_steps = job.schedule.warmup_steps
    if warmup_steps > job.steps:
        text = f"{warmup_steps} steps of warm-up in {job.steps} steps; lower it, or raise steps"
        yield Breach(("schedule", "warmup_steps"), text)


def _decay_end(job: Job) -> Iterator[Breach]:
    warmup_steps, end = job.schedule.warmup_steps, job.schedule.decay_steps
    if end is None:
        return
    if job.schedule.name == "constant":
        text = "a constant schedule has no decay; leave it out, or use name: cosine or linear"
        yield Breach(("schedule", "decay_steps"), text)
    elif end < warmup_steps:
        text = (
            f"the decay ends at step {end}, within {warmup_steps} steps of warm-up; raise it, or "
            "lower schedule.warmup_steps"
        )
        yield Breach(("schedule", "decay_steps"), text)


def _constant_rate(job: Job) -> Iterator[Breach]:
    default = type(job.schedule).model_fields["final_fraction"].default
    if job.schedule.name == "constant" and job.schedule.final_fraction not in (default, 1.0):
        text = (
            "a constant schedule has no decay to a fraction; leave it out, or use name: cosine or "
            "linear"
        )
        yield Breach(("schedule", "final_fraction"), text)


def _balance(job: Job) -> Iterator[Breach]:
    router = job.router
    if router.sequence_loss is not None and router.global_loss is not None:
        text = "a second balance loss beside router.sequence_loss; keep one of them"
        yield Breach(("router", "global_loss"), text)
    if router.computing_choices is not None and router.bias_rate is None:
        text = "nothing uses it without router.bias_rate; add bias_rate: 0.001, or remove it"
        yield Breach(("router", "computing_choices"), text)


def _attention_on_processors(job: Job) -> Iterator[Breach]:
    reason = NOT_ON_PROCESSORS.get(job.model.attention or "")
    if reason is None:
        return
    names = [
        island.name
        for island in job.islands
        if island.role != "experts" and _is_processor(island.accelerator)
    ]
    if names:
        computes = "computes" if len(names) == 1 else "compute"
        who = f"island{'s' * (len(names) > 1)} {', '.join(names)} {computes} attention on them"
        yield Breach(_ATTENTION, f"{reason}, and {who}; {_FAST_ENOUGH}")


def _is_processor(accelerator: str) -> bool:
    try:
        return get_accelerator(accelerator).shares_machine
    except DeviceError:  # another rule says so
        return False


def _attention_precision(job: Job) -> Iterator[Breach]:
    if job.model.attention == "flash" and job.precision == "float32":
        advice = f"set precision: bfloat16, or {_FAST_ENOUGH}"
        yield Breach(_ATTENTION, f"flash_attn computes in half precision alone; {advice}")


def _flash_of_documents(job: Job) -> Iterator[Breach]:
    if job.model.attention == "flash" and job.data.is_packed and job.batch.microbatch_size > 1:
        yield Breach(_ATTENTION, FLASH_OF_DOCUMENTS)


def _half_state(job: Job) -> Iterator[Breach]:
    """Moments in bfloat16, which has eight binary places."""
    optimizer = job.optimizer
    if not isinstance(optimizer, AdamW) or not optimizer.has_half_state:
        return
    if optimizer.is_on_host:
        text = "CPU Adam, by which optimizer.device: host updates, keeps float32 alone"
        yield Breach(("optimizer", "state"), f"{text}; remove it, or set optimizer.device: worker")
    for beta in optimizer.betas:
        if beta > _LARGEST_HALF_BETA:
            text = (
                f"{beta:g}: a moment in bfloat16 (optimizer.state) that decays by less than 1/256 "
                f"a step is rounded back to what it was; at most {_LARGEST_HALF_BETA:.4f}, or set "
                "optimizer.state: float32"
            )
            yield Breach(("optimizer", "betas"), text)


_RULES = (
    Rule(("optimizer",), _half_state),
    Rule(("model",), _one_model),
    Rule(("data",), _one_source),
    Rule(("data",), _one_source_each),
    Rule(("data",), _shares),
    Rule(("model",), _experts_per_token),
    Rule(("combine", "determinism"), _combine),
    Rule(("schedule", "steps"), _warm_up),
    Rule(("schedule",), _decay_end),
    Rule(("schedule",), _constant_rate),
    Rule(("router",), _balance),
    Rule(("model", "islands"), _attention_on_processors),
    Rule(("model", "precision"), _attention_precision),
    Rule(("model", "data", "batch"), _flash_of_documents),
    *FILE_RULES,
    *TOKENIZER_RULES,
    *LAYOUT_RULES,
    *FAULT_RULES,
)
