"""What a job's model folder holds beside what is trained, and where its configuration is not taken
at its word: told once, before the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dougong.checkpoint.huggingface import Names
from dougong.job.schema import Job, Model
from dougong.job.settled import is_settled
from dougong.models import companions
from dougong.models.build import build_on_meta, load_config
from dougong.models.configuration import extra_layers, folder_config, untied_pair
from dougong.models.folder import own_code_words, read_config, stored_tensors
from dougong.models.patterns import name_patterns
from dougong.models.weights import WeightsFolder
from dougong.parallel.plan import Inventory
from dougong.remarks import Remarks


def folder_remarks(job: Job, inventory: Inventory) -> Remarks:
    """Hold every tensor of the model against the folder `model.path`, by the files' headers.

    Raises `ModelError` when one is missing, of another shape or quantised, when tied tensors differ
    that the job says are tied, or when a small file beside the weights is not whole. Of a run that
    has begun the folder is not read any more.
    """
    model = job.model
    if model.path is None or is_settled(model):
        return Remarks()
    network = build_on_meta(load_config(model, None))
    names = Names.of(network, inventory.sites, inventory.num_experts)
    unused = WeightsFolder(Path(model.path), names).check()
    folder = Path(model.path)
    notes = [*_on_unused(folder, unused), *_on_configuration(model), *_on_small_files(folder)]
    return Remarks(notes=tuple(f"model.path: {model.path}: {note}" for note in notes))


def _on_unused(folder: Path, unused: tuple[str, ...]) -> Iterator[str]:
    if unused:
        used = stored_tensors(folder).keys() - set(unused)
        plural = "tensor" if len(unused) == 1 else "tensors"
        yield (
            f"{len(unused)} {plural} not used: {name_patterns(unused, used)}; "
            "neither trained nor written into checkpoints"
        )


def _on_small_files(folder: Path) -> Iterator[str]:
    """What should go into checkpoints, and does not."""
    companions.of_folder(folder)  # refuses what cannot be read
    for name in companions.left_out(folder):
        limit = companions.MOST_BYTES >> 20
        yield f"{name} does not go into checkpoints: it has more than {limit} MiB"


def _on_configuration(model: Model) -> Iterator[str]:
    """Where the run's configuration, and so that of its checkpoints, is not the folder's."""
    folder = folder_config(model)
    for key in extra_layers(folder):
        yield (
            f"its configuration says {key}: {getattr(folder, key)}; layers for multi-token "
            "prediction are not trained, so the configuration of this run says that there are none"
        )
    pair = untied_pair(model, folder)
    if pair is not None:
        yield (
            f"holds {pair[0]} and {pair[1]} with different values, although its configuration ties "
            "them: both are trained, as transformers does it, and the configuration of this run "
            "says tie_word_embeddings: false"
        )
    code = own_code_words(read_config(Path(model.path or "")))
    if code:
        yield code
