"""What a job's model folder holds beside what is trained, and where its configuration is not taken
at its word: told once, before the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dougong.checkpoint.huggingface import Names, names_of
from dougong.errors import ModelError
from dougong.job.rule import flat
from dougong.job.schema import Job, Model
from dougong.job.settled import is_settled
from dougong.models.adapter_folder import AdapterFolder
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.configs.of_folder import extra_layers, folder_config, untied_pair
from dougong.models.configs.parts import text_config
from dougong.models.patterns import name_patterns
from dougong.models.sites import find_sites
from dougong.models.stored import companions
from dougong.models.stored.folder import extra_layer_words
from dougong.models.stored.quantised import quantised_words
from dougong.models.stored.weights import WeightsFolder
from dougong.models.tuned import tuned_on_meta
from dougong.parallel.plan import Inventory
from dougong.remarks import Remarks


def folder_remarks(job: Job, inventory: Inventory) -> Remarks:
    """Hold every tensor of the model against the folder `model.path`, by the files' headers.

    Raises `ModelError` when one is missing, of another shape or quantised in a way that is not
    read, when tied tensors differ that the job says are tied, or when a small file beside the
    weights is not whole. Of a run that has begun the folder is not read any more.
    """
    model = job.model
    if model.path is None or is_settled(model):
        return Remarks()
    network = build_on_meta(load_config(model, None))
    names = Names.of(network, inventory.sites, inventory.num_experts)
    notes_of_adapter = _on_adapter(model)
    weights = WeightsFolder(Path(model.path), names)
    unused = _check(model, weights)
    notes = [
        *quantised_words(weights.stored.values()),
        *_on_unused(weights, unused),
        *_on_configuration(model),
        *_on_other_files(Path(model.path)),
    ]
    own = tuple(f"model.path: {model.path}: {note}" for note in notes)
    return Remarks(notes=own) + notes_of_adapter


def _on_adapter(model: Model) -> Remarks:
    """Hold the adapter that the job goes on from against the model."""
    lora = model.lora
    if lora is None or lora.path is None:
        return Remarks()
    network = tuned_on_meta(model, load_config(model, None))
    sites = find_sites(network)
    names = names_of(network, sites, model)
    folder = AdapterFolder(Path(lora.path), names.adapters)
    folder.check(lora, dict(names.tensors()))
    if folder.base in (None, model.path):
        return Remarks()
    text = f"model.lora.path: {lora.path} says that it belongs to {folder.base}, the job's"
    return Remarks(warnings=(f"{text} model.path is {model.path}; the shapes are the same",))


def _check(model: Model, weights: WeightsFolder) -> tuple[str, ...]:
    try:
        return weights.check()
    except ModelError as error:
        if not model.config:
            raise
        keys = ", ".join(flat(model.config))
        raise ModelError(
            f"{error}; or model.config ({keys}) makes it another model than the folder's: leave "
            "out what changes sizes"
        ) from error


def _on_unused(weights: WeightsFolder, unused: tuple[str, ...]) -> Iterator[str]:
    if unused:
        used = weights.stored.keys() - set(unused)
        plural = "tensor" if len(unused) == 1 else "tensors"
        yield (
            f"{len(unused)} {plural} not used: {name_patterns(unused, used)}; "
            "neither trained nor written into checkpoints"
        )


def _on_other_files(folder: Path) -> Iterator[str]:
    """What lies beside the weights, and what of it goes into checkpoints."""
    companions.of_folder(folder)  # refuses what cannot be read
    yield from companions.beside_words(folder)


def _on_configuration(model: Model) -> Iterator[str]:
    """Where the run's configuration, and so that of its checkpoints, is not the folder's."""
    folder = folder_config(model)
    text = text_config(folder)
    for key in extra_layers(text):
        yield extra_layer_words(key, getattr(text, key))
    pair = untied_pair(model, folder)
    if pair is not None:
        yield (
            f"holds {pair[0]} and {pair[1]} with different values, although its configuration ties "
            "them: both are trained, as transformers does it, and the configuration of this run "
            "says tie_word_embeddings: false"
        )
