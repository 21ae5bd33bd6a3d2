"""What is looked at before any worker starts: the model's tensors and the data.

An agent's forked child does it, so a wrong model or wrong data is reported once and costs no
worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dougong.accelerators.registry import get_accelerator
from dougong.control.cache_place import REMEDY, cache_place, why_unwritable
from dougong.control.run_sources import RunSources
from dougong.data.preview import preview_data
from dougong.data.sources import job_tokenizer, num_ids, vocabulary
from dougong.data.windows import open_data
from dougong.deepspeed.adam_build import adam_remarks, check_adam
from dougong.errors import DataError, ModelError
from dougong.fingerprint.record import JobShapes
from dougong.job.rule import flat
from dougong.job.rules import FLASH_OF_DOCUMENTS
from dougong.job.schema import Job
from dougong.job.settled import is_settled
from dougong.job.tokenizer_rules import longer_than
from dougong.job.yaml.provenance import dotted
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.configs.parts import text_config
from dougong.models.inventory import inspect_model
from dougong.models.library.classes import has_towers
from dougong.models.memory.segment_bytes import MicroBatchShape, activations_of
from dougong.models.sites import family_expert, family_shapes, find_sites
from dougong.models.stored.folder import check_folder
from dougong.models.towers import tower_words
from dougong.ops.experts.choose import is_swiglu
from dougong.parallel.plan import Inventory
from dougong.planner.needs.tiles import product_rows
from dougong.remarks import Remarks
from dougong.training.optimizers.lr_schedule import rate_remarks
from dougong.training.start.folder_remarks import folder_remarks
from dougong.training.start.sources import check_data, compare_sources, find_sources
from dougong.training.start.stored_forms import with_stored_forms
from dougong.training.start.tuning_remarks import tuning_remarks

FEW_ROWS = (1, 7, 16, 33)
"""Heights of small blocks, at which math libraries change their kernels."""
MOST_ROWS = 256
MOST_MATRICES = 16


@dataclass(frozen=True)
class Inspection:
    """What was found. `data`: `TokenWindows.describe()`; its `digest` names the tokens and how they
    are cut.

    `shapes`: of the job's own kernel calls; None where there is no model to speak of. `notes` and
    `warnings`: what a person is told once of the model's folder and the data. `sources`: what the
    run has read when it began.
    """

    inventory: Inventory
    data: Mapping[str, object]
    shapes: JobShapes | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: RunSources | None = None


def inspect(job: Job, known: RunSources | None = None) -> Inspection:
    """What the planner needs to know of the model, and what the data is. Text is tokenised here if
    it was not before. `known`: what a run that goes on has read when it began (the job is settled
    by it); what is there now is held against it.

    Raises ModelError or DataError, or DeviceError where the update that it asks for is not to be
    had.
    """
    check_adam(job)
    inventory, config = inspect_only(job), _config_of(job)
    data = open_data(job, text_config(config).vocab_size)
    if known is not None:
        check_data(known, job, data.name, data.digest())
    told = remarks_on(job, inventory) + data.remarks
    if known is None:
        sources = find_sources(job, config, data.digest())
    else:
        sources, told = known, told + compare_sources(job, known)
    shapes = shapes_of(job, inventory)
    return Inspection(inventory, data.describe(), shapes, told.notes, told.warnings, sources)


def remarks_on(job: Job, inventory: Inventory) -> Remarks:
    """What is told once of the model's folder and of the data, by `plan` and by a run. Raises
    ModelError or DataError."""
    told = Remarks()
    for source in _REMARKS:
        told += source(job, inventory)
    return told


def preview(job: Job, inventory: Inventory) -> tuple[str, Remarks]:
    """What a plan says of the data, in a line, and what is told once; all the text is left to the
    run.

    Raises ModelError or DataError, also for data that is too short.
    """
    line, told = preview_data(job, text_config(_config_of(job)).vocab_size)
    return line, remarks_on(job, inventory) + told


def inspect_only(job: Job) -> Inventory:
    """The model's tensors without a look at more of the data than its tokenizer. Raises ModelError
    or DataError."""
    if job.model.path is not None and not is_settled(job.model):
        # Seconds, and it may spare the minutes that the data takes.
        check_folder(Path(job.model.path))
    refuse_longer_sequences(job)
    inventory = inspect_model(
        job.model,
        vocabulary_of(job),
        job.router,
        job.is_layout_free,
        job.recompute == "layers",
        job.dense == "shard",
    )
    found, config = [], _config_of(job)
    for kind, is_fused in _kinds_with_attention(job).items():
        found.append(activations_of(job.model, config, _microbatch_of(job), kind, is_fused))
    forms = _forms_of(job, inventory.attention)
    inventory = replace(inventory, activations=tuple(found), attention=forms)
    return with_stored_forms(inventory, job.model, config)


def _forms_of(job: Job, forms: tuple[str, ...]) -> tuple[str, ...]:
    """Those that keep the documents of the job's sequences apart."""
    if not job.data.is_packed or job.batch.microbatch_size == 1:
        return forms
    kept = tuple(form for form in forms if form != "flash")
    if not kept:
        raise ModelError(f"model.attention: {FLASH_OF_DOCUMENTS}")
    return kept


def _microbatch_of(job: Job) -> MicroBatchShape:
    return MicroBatchShape(
        job.batch.microbatch_size,
        job.data.sequence_length,
        getattr(torch, job.precision),
        job.recompute == "layers",
        job.data.is_packed,
    )


def _kinds_with_attention(job: Job) -> dict[str, bool]:
    """The accelerators whose workers compute attention, and whether that is fused there."""
    names = {island.accelerator for island in job.islands if island.role != "experts"}
    return {name: get_accelerator(name).fused_attention for name in sorted(names)}


def refuse_longer_sequences(job: Job) -> None:
    """ModelError where the job's sequences have more tokens than the model has positions, and the
    job does not insist."""
    positions = getattr(text_config(_config_of(job)), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return
    breach = longer_than(job, positions)
    if breach is not None:
        raise ModelError(f"{dotted(breach.path)}: {breach.text}")


def vocabulary_of(job: Job) -> int:
    """The model's number of ids as the job says it, else the tokenizer's; 0 where the model's
    folder says it. DataError when nobody says."""
    given = flat(job.model.config)
    if "vocab_size" in given:
        return int(given["vocab_size"])
    if job.model.path is not None:
        return 0
    ids = vocabulary(job)
    if ids is None:
        raise DataError(
            "data: token files carry no tokenizer, so nobody says how many ids there are; set "
            "model.config.vocab_size"
        )
    return ids


def shapes_of(job: Job, inventory: Inventory) -> JobShapes:
    """The sizes of the job's own kernel calls, for the fingerprint of the devices that will run
    them."""
    config = text_config(_config_of(job))
    hidden = int(config.hidden_size)
    heads = int(getattr(config, "num_attention_heads", 1) or 1)
    return JobShapes(
        matrices=_matrices(inventory),
        rows=_rows(job, inventory),
        heads=heads,
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        sequence=job.data.sequence_length,
        hidden=hidden,
        inner=_inner_width(inventory, hidden),
        experts=inventory.num_experts,
        vocabulary=int(config.vocab_size),
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        attention=inventory.attention,
        swiglu=_has_swiglu(job),
    )


def _has_swiglu(job: Job) -> bool:
    """Whether a fused form of SwiGLU experts may be theirs. Asked only where an island's kind of
    device may have one: the answer is computed."""
    kinds = {get_accelerator(island.accelerator) for island in job.islands}
    if not any(kind.has_expert_operators for kind in kinds):
        return False
    site = find_sites(build_on_meta(_config_of(job)))[0]
    return is_swiglu(family_expert(site), family_shapes(site), torch.device("cpu"))


def _on_towers(job: Job, inventory: Inventory) -> Remarks:
    config = load_config(job.model, None)
    if not has_towers(config):
        return Remarks()
    words = tower_words(build_on_meta(config), is_random=job.model.path is None)
    return Remarks(notes=(words,)) if words else Remarks()


def _rate_remarks(job: Job, inventory: Inventory) -> Remarks:
    return rate_remarks(job)


def _on_the_update(job: Job, inventory: Inventory) -> Remarks:
    return adam_remarks(job)


def tokenizer_remarks(job: Job, inventory: Inventory) -> Remarks:
    """Which tokenizer it is, what marks a document, and ids that the model does not have. Raises
    DataError."""
    tokenizer = job_tokenizer(job)
    if tokenizer is None:
        return Remarks()
    # A chat begins and ends as its template says.
    has_texts = any(source.source in ("text", "dataset") for _, source in job.data.sources)
    told = tokenizer.remarks if has_texts else Remarks()
    size, found = int(text_config(_config_of(job)).vocab_size), num_ids(job) or 0
    if found > size:
        more = (
            f"the tokenizer {tokenizer.name} has {found} ids, {inventory.family}'s "
            f"vocabulary {size}: a text that holds one of the others ends the run"
        )
        told += Remarks(warnings=(more,))
    return told


def _on_the_cache(job: Job, inventory: Inventory) -> Remarks:
    """Fingerprints go without a cache; tokens do not, which `open_data` says."""
    reason = why_unwritable(cache_place(job.cache))
    if reason is None or not job.is_deterministic:
        return Remarks()
    text = f"{reason}, so every start probes the devices anew; {REMEDY}"
    return Remarks(warnings=(text,))


def _on_layers_that_run_again(job: Job, inventory: Inventory) -> Remarks:
    """With kernels whose bits vary a layer need not come to the same bits twice."""
    if job.recompute == "none" or job.is_deterministic:
        return Remarks()
    text = (
        "recompute: layers with determinism: off: a kernel whose bits vary lets a layer come to "
        "other bits the second time, which ends the run; set recompute: none, or begin a run with "
        "determinism: run"
    )
    return Remarks(warnings=(text,))


_REMARKS: tuple[Callable[[Job, Inventory], Remarks], ...] = (
    _rate_remarks,
    _on_the_update,
    folder_remarks,
    _on_towers,
    tuning_remarks,
    tokenizer_remarks,
    _on_the_cache,
    _on_layers_that_run_again,
)
"""Who has something to say, in the order in which it is told."""


def _config_of(job: Job) -> Any:
    return load_config(job.model, vocabulary_of(job))


def _matrices(inventory: Inventory) -> tuple[tuple[int, int], ...]:
    """The shapes of weights, each once: the experts' first, which do most of the work."""
    shapes = [shape for _, shape in inventory.expert_shapes]
    shapes += [tensor.shape for tensor in inventory.tensors]
    matrices = [(s[0], s[1]) for s in shapes if len(s) == 2]
    return tuple(dict.fromkeys(matrices))[:MOST_MATRICES]


def _rows(job: Job, inventory: Inventory) -> tuple[int, ...]:
    """The heights of the blocks that meet the weights: a whole micro-batch, one expert's part of
    it, a tile."""
    tokens = job.batch.microbatch_size * job.data.sequence_length
    per_expert = max(1, tokens * inventory.experts_per_token // inventory.num_experts)
    heights = {*FEW_ROWS, min(tokens, MOST_ROWS), min(per_expert, MOST_ROWS)}
    tile = product_rows(job, inventory.num_experts, inventory.experts_per_token)
    if isinstance(tile, int):
        heights.add(min(tile, MOST_ROWS))
    return tuple(sorted(heights))


def _inner_width(inventory: Inventory, hidden: int) -> int:
    """The width inside an expert: the other side of its narrowest matrix that has one of the
    residual stream's width."""
    widths = []
    for _, shape in inventory.expert_shapes:
        if len(shape) == 2:
            widths.append(shape[0] if shape[1] == hidden else shape[1])
    return min(widths, default=hidden)
