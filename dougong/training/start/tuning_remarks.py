"""What is told once of what a job trains: frozen tensors, adapters, groups of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.errors import ModelError
from dougong.job.optimizers.adamw import AdamW
from dougong.job.optimizers.groups import ParameterGroup
from dougong.job.parts.patterns import without_match
from dougong.job.schema import Job
from dougong.models.patterns import name_patterns
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.plan import Inventory
from dougong.remarks import Remarks


def tuning_remarks(job: Job, inventory: Inventory) -> Remarks:
    """Raises ModelError for a group that matches no tensor that is trained."""
    notes = (*_on_frozen(job, inventory), *_on_adapters(job, inventory))
    return Remarks(notes=notes) + _on_groups(job, inventory)


def _sizes(inventory: Inventory) -> Iterator[tuple[str, int, bool]]:
    """(parameter, numbers in it, whether it is trained)."""
    for tensor in inventory.tensors:
        yield tensor.name, tensor.num_parameters, tensor.trainable
    for site in inventory.sites:
        trained = dict(inventory.trained_shapes(site))
        pairs = zip(inventory.expert_shapes, inventory.sizes_of_an_expert, strict=True)
        for (parameter, _), size in pairs:
            yield f"{site}.{parameter}", size * inventory.num_experts, parameter in trained


def _on_frozen(job: Job, inventory: Inventory) -> Iterator[str]:
    if job.model.freeze is None and job.model.lora is None:
        return
    sizes = list(_sizes(inventory))
    frozen = [name for name, _, is_trained in sizes if not is_trained]
    trained = {name for name, _, is_trained in sizes if is_trained}
    count = sum(size for name, size, _ in sizes if name in trained)
    total = sum(size for _, size, _ in sizes)
    yield (
        f"{count:,} of {total:,} parameters are trained ({count / total:.3%}); frozen are "
        f"{name_patterns(frozen, trained)}"
    )


def _on_adapters(job: Job, inventory: Inventory) -> Iterator[str]:
    lora = job.model.lora
    if lora is None:
        return
    halves = [name for name, _, _ in _sizes(inventory) if is_adapter(name)]
    begin = "as they are, since B begins at zero" if lora.path is None else f"by {lora.path}"
    yield (
        f"adapters of rank {lora.rank} on {len(halves) // 2} matrices, scaled by "
        f"{lora.alpha / lora.rank:g}; they begin {begin}; `dougong export` merges them, with "
        "--adapter it writes them alone, for peft"
    )


def _on_groups(job: Job, inventory: Inventory) -> Remarks:
    settings = job.optimizer
    if not isinstance(settings, AdamW) or not settings.groups:
        return Remarks()
    trained = [name for name, _, is_trained in _sizes(inventory) if is_trained]
    found: dict[int, list[str]] = {number: [] for number in range(len(settings.groups))}
    for name in trained:
        number = settings.rates.group_of(name)
        if number is not None:
            found[number].append(name)
    notes, warnings = list[str](), list[str]()
    for number, group in enumerate(settings.groups):
        wrong = without_match([group.match], trained)
        if wrong is not None:
            raise ModelError(f"optimizer.groups.{number}.match: {wrong} that is trained")
        names, place = found[number], f"optimizer.groups.{number}"
        if names:
            notes.append(f"{place}: {len(names)} tensors ({group.match}): {_words(group)}")
        else:
            text = f"{place}: every tensor that {group.match!r} matches is of a group before it"
            warnings.append(f"{text}; put it first, or leave it out")
    return Remarks(notes=tuple(notes), warnings=tuple(warnings))


def _words(group: ParameterGroup) -> str:
    given = (("lr", group.lr), ("weight_decay", group.weight_decay))
    return ", ".join(f"{key} {value:g}" for key, value in given if value is not None) or "as all"
