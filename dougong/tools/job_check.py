"""A job file looked at as a whole, its model included, before anything starts. Imports neither
torch nor transformers: a fraction of a second."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.accelerators.registry import check_claims, get_accelerator
from dougong.data.documents.formats import refuse_other_than_json
from dougong.errors import CheckpointError, DataError, DeviceError, ModelError
from dougong.job.families import read_families
from dougong.job.load import ResolvedJob, load_job
from dougong.job.model_rules import model_rules
from dougong.job.rule import Breach, Rule, flat, model_config
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import (
    BYTES,
    NUM_BYTES,
    names_own_code,
    needs_own_code,
    tokenizer_of,
)
from dougong.job.tokenizer_rules import number_in
from dougong.launcher.signing.key_file import named_key
from dougong.models.stored import companions
from dougong.models.stored.folder import (
    CONFIG,
    EXTRA_LAYERS,
    check_folder,
    extra_layer_words,
    read_config,
    stored_tensors,
)
from dougong.models.stored.quantised import quantised_words


def load_whole_job(path: str | Path, override: Sequence[str] = ()) -> ResolvedJob:
    """As `load_job`, and the model is looked at as well: its family and keys, its folder, its
    vocabulary."""
    return load_job(path, override, (*_RULES, *model_rules(read_families())))


def unchecked_model() -> str:
    """Why the model's family and keys have not been looked at; empty where they have."""
    families = read_families()
    if families.is_of_installed:
        return ""
    return (
        f"the model's keys are checked by `dougong plan`: the list in this package is of "
        f"transformers {families.version}, another version is installed"
    )


def folder_notes(job: Job) -> Iterator[str]:
    """What is known of a good job's folders without transformers, and told once."""
    tokenizer = tokenizer_of(job)
    if tokenizer is not None and names_own_code(tokenizer):
        yield (
            f"the tokenizer {tokenizer} names its own code (auto_map), which is not run; "
            "`dougong plan` says whether it can be read without"
        )
    if job.model.path is not None:
        notes = _on_folder(Path(job.model.path), job.model.config)
        yield from (f"model.path: {job.model.path}: {note}" for note in notes)


def _on_folder(folder: Path, given: Mapping[str, Any]) -> Iterator[str]:
    config, changed = flat(read_config(folder)), flat(given)
    for key in EXTRA_LAYERS:
        if config.get(key) and key not in changed:
            yield extra_layer_words(key, config[key])
    yield from quantised_words(stored_tensors(folder).values())
    yield from companions.beside_words(folder)


def _folder(job: Job) -> Iterator[Breach]:
    if job.model.path is None:
        return
    try:
        check_folder(Path(job.model.path))
        companions.of_folder(Path(job.model.path), but=_own_tokenizer(job))
    except ModelError as error:
        yield Breach(("model", "path"), str(error).removeprefix("model.path: "))
        return
    if not isinstance(model_config(job).get("model_type"), str):
        text = f"{job.model.path}/{CONFIG} has no model_type, which names the family; add it"
        yield Breach(("model", "path"), text)


def _own_tokenizer(job: Job) -> tuple[str, ...]:
    """The folder's file that is its job's tokenizer, which has a rule of its own."""
    file = _file_of(tokenizer_of(job))
    is_own = file is not None and job.model.path is not None and file.parent == Path(job.model.path)
    return (file.name,) if file is not None and is_own else ()


def _vocabulary(job: Job) -> Iterator[Breach]:
    """More ids than the model has rows for: the first text that holds one of them would end the
    run."""
    name, size = tokenizer_of(job), number_in(model_config(job), "vocab_size")
    if name is None or size is None:
        return
    num_ids = NUM_BYTES if name == BYTES else _num_ids(Path(name))
    if num_ids is None or num_ids <= size:
        return
    text = f"the tokenizer {name} has {num_ids} ids"
    if "vocab_size" in job.model.config:
        path = ("model", "config", "vocab_size")
        yield Breach(path, f"{size} ids, but {text}; raise it to {num_ids}, or leave it out")
    else:
        advice = "give the model's own tokenizer"
        yield Breach(("data", "tokenizer"), f"{text}, but the model has {size}; {advice}")


def _num_ids(path: Path) -> int | None:
    """Ids of a tokenizer.json without those that were added to it later; None where it does not
    say so plainly."""
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        vocabulary = json.loads(file.read_bytes())["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if isinstance(vocabulary, dict):
        return max((one for one in vocabulary.values() if type(one) is int), default=-1) + 1
    return len(vocabulary) if isinstance(vocabulary, list) else None


def _tokenizer_file(job: Job) -> Iterator[Breach]:
    """A file that is named as a tokenizer and is none."""
    name = tokenizer_of(job)
    file = _file_of(name)
    if file is None:
        return
    path = ("data", "tokenizer")
    name = str(file)
    try:
        refuse_other_than_json(file)
        found = json.loads(file.read_bytes())
    except OSError as error:
        yield Breach(path, f"{name}: {error.strerror}; check its permissions")
        return
    except DataError as error:
        yield Breach(path, str(error))
        return
    except ValueError as error:
        yield Breach(path, f"{name} is not a tokenizer.json ({error}); give one, or a folder")
        return
    if not (isinstance(found, dict) and isinstance(found.get("model"), dict)):
        text = f"{name} is not a tokenizer.json: it has no key `model`"
        yield Breach(path, f"{text}; give one, or a Hugging Face folder")


def _tokenizer_code(job: Job) -> Iterator[Breach]:
    """A folder whose tokenizer is its own code and nothing else."""
    name = tokenizer_of(job)
    if name is None or not needs_own_code(name):
        return
    path = ("model", "path") if job.data.tokenizer is None else ("data", "tokenizer")
    text = f"the tokenizer {name} needs its own code (auto_map); dougong runs none"
    yield Breach(path, f"{text}; give a folder with its tokenizer.json")


def _file_of(tokenizer: str | None) -> Path | None:
    """A tokenizer's file, or that of its folder; None where there is none to look at."""
    if tokenizer is None or tokenizer == BYTES:
        return None
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    return file if file.is_file() else None


def _accelerators(job: Job) -> Iterator[Breach]:
    """A package may offer a kind of device and not load."""
    for index, island in enumerate(job.islands):
        try:
            check_claims(island.accelerator)
            get_accelerator(island.accelerator)
        except DeviceError as error:
            yield Breach(("islands", index, "accelerator"), str(error))


def _signing_key(job: Job) -> Iterator[Breach]:
    try:
        named_key(job.checkpoint.sign)
    except CheckpointError as error:
        yield Breach(("checkpoint", "sign"), str(error))


_RULES = (
    Rule(("islands",), _accelerators),
    Rule(("model",), _folder),
    Rule(("data", "model"), _tokenizer_file),
    Rule(("data", "model"), _tokenizer_code),
    Rule(("data", "model"), _vocabulary),
    Rule(("checkpoint",), _signing_key),
)
