"""What is told once of what a job trains: frozen tensors, adapters, groups of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.errors import ModelError
from dougong.job.optimizers.adamw import AdamW
from dougong.job.optimizers.groups import ParameterGroup
from dougong.job.parts.patterns import NOT, without_match
from dougong.job.schema import Job
from dougong.models.patterns import name_patterns
from dougong.ops.adapter_names import is_adapter
from dougong.parallel.plan import Inventory
from dougong.remarks import Remarks


def tuning_remarks(job: Job, inventory: Inventory) -> Remarks:
    """Raises ModelError for a group that matches no tensor that is trained."""
    notes = (*_on_frozen(job, inventory), *_on_adapters(job, inventory))
    warnings = tuple(_doubtful(job, inventory))
    return Remarks(notes=notes, warnings=warnings) + _on_groups(job, inventory)


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
    rest = "all else is frozen"
    if not all(map(is_adapter, trained)):
        rest = f"frozen are {name_patterns(frozen, trained)}" if frozen else "nothing is frozen"
    yield f"{count:,} of {total:,} parameters are trained ({count / total:.3%}); {rest}"


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


def _doubtful(job: Job, inventory: Inventory) -> Iterator[str]:
    lora, freeze = job.model.lora, job.model.freeze
    if freeze and all(pattern.startswith(NOT) for pattern in freeze):
        yield "model.freeze: '!PATTERN' takes out what a pattern before it names; nothing is frozen"
    if lora is None:
        return
    if job.model.path is None:
        yield "model.lora: without model.path the frozen weights are random; name a trained model"
    matrices = [tensor.shape for tensor in inventory.tensors if is_adapter(tensor.name)]
    matrices += [shape for name, shape in inventory.expert_shapes if is_adapter(name)]
    widest = max(max(shape) for shape in matrices)
    if lora.rank >= widest:
        yield (
            f"model.lora.rank: {lora.rank} is no less than the largest adapted width, {widest}: "
            "adapters are larger than what they adapt"
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
        names, place = found[number], f"optimizer.groups.{number}"
        _refuse_without_tensors(f"{place}.match", group.match, trained, inventory)
        if names:
            notes.append(f"{place}: {len(names)} tensors ({group.match}): {_words(group)}")
        else:
            text = f"{place}: every tensor that {group.match!r} matches is of a group before it"
            warnings.append(f"{text}; put it first, or leave it out")
    return Remarks(notes=tuple(notes), warnings=tuple(warnings))


def _refuse_without_tensors(
    place: str, pattern: str, trained: Sequence[str], inventory: Inventory
) -> None:
    if pattern.startswith(NOT):
        raise ModelError(f"{place}: {pattern!r}: `!` is for lists of patterns; name what belongs")
    if without_match([pattern], trained) is None:
        return
    wrong = without_match([pattern], [name for name, _, _ in _sizes(inventory)])
    reason = wrong or f"{pattern!r} matches tensors, but none that is trained"
    raise ModelError(f"{place}: {reason}")


def _words(group: ParameterGroup) -> str:
    given = (("lr", group.lr), ("weight_decay", group.weight_decay))
    return ", ".join(f"{key} {value:g}" for key, value in given if value is not None) or "as all"
