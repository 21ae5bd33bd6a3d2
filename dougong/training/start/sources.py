"""What a run reads from outside its job file: found when it begins, held against what is there when
it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dougong.control.run_sources import (
    LOOKED_FOR,
    RunSources,
    changed_files,
    digests_of,
)
from dougong.data.chats.image_processor import PROCESSOR_FILES, processor_folder
from dougong.data.chats.rows import find_images
from dougong.data.documents import dataset_files
from dougong.data.documents.text import matching_files
from dougong.errors import DataError, ModelError
from dougong.job.parts.data import SourceKeys
from dougong.job.schema import Job, Model
from dougong.models.configs.load import load_config
from dougong.models.configs.settled import changed_keys, class_of, config_values
from dougong.models.library.attention_forms import AUTO
from dougong.models.peft_form import WEIGHTS_FILE
from dougong.models.stored.folder import stored_tensors
from dougong.remarks import Remarks

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "*.model",
    "*.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    *PROCESSOR_FILES,
)
"""Of a folder: what a tokenizer is made of, where its special tokens are named, and how images are
cut."""

_MOST_NEW = 5
_MOST_DATA_FILES = 256
"""Every checkpoint names the data's files, so of more of them none is named."""


def find_sources(job: Job, config: Any, data: str) -> RunSources:
    """What the run begins with. `config`: the model's; `data`: digest of the data. Small files are
    read whole, of weights samples."""
    weights: list[Path] = []
    if job.model.path is not None:
        tensors = stored_tensors(Path(job.model.path)).values()
        weights = sorted({tensor.file for tensor in tensors})
    if job.model.lora is not None and job.model.lora.path is not None:
        weights.append(Path(job.model.lora.path) / WEIGHTS_FILE)
    return RunSources(
        config=config_values(config),
        config_class=class_of(config),
        data=data,
        weights=digests_of(weights),
        tokenizer=digests_of(_tokenizer_files(job)),
        side_files=digests_of(_side_files(job)),
        data_files=digests_of(_data_files(job)),
        attention=LOOKED_FOR if _looks_for_attention(job) else "",
    )


def _looks_for_attention(job: Job) -> bool:
    """Where no bits are promised, the form that transformers chooses is as good as any."""
    return job.model.attention == AUTO and job.is_deterministic


def check_data(known: RunSources, job: Job, name: str, digest: str) -> None:
    """DataError when the data, which is called `name`, is no longer what the run began with."""
    if digest == known.data:
        return
    # The tokenizer is as it was: where its files have changed, the run reads its own copy.
    changed = changed_files({**known.data_files, **known.side_files})
    parts = [f"changed since: {', '.join(changed)}"] if changed else []
    new = _new_files(known, job)
    if new:
        more = f" and {len(new) - _MOST_NEW} more" if len(new) > _MOST_NEW else ""
        parts.append(f"not there then: {', '.join(new[:_MOST_NEW])}{more}")
    which = f" ({'; '.join(parts)})" if parts else ""
    raise DataError(
        f"{name}: this run began with data of digest {known.data}, it has {digest} now{which}, so "
        "the next steps would be another run's; put the data back, or begin a new run"
    )


def check_weights(known: RunSources) -> None:
    """ModelError when the files of `model.path` are no longer those with which the run began. Only
    a generation that begins without a checkpoint reads them."""
    changed = changed_files(known.weights)
    if changed:
        raise ModelError(
            f"model.path: {', '.join(changed)}: not as when this run began (every node must see "
            "the same files), and it has no checkpoint yet to go on from; put them back, or begin "
            "a new run"
        )


def compare_sources(job: Job, known: RunSources) -> Remarks:
    """What a run that goes on is told of files that it does not read any more, and that are others
    now. ModelError where the model's configuration is another one and the job promises its bits."""
    told = Remarks()
    for source in _COMPARED:
        told += source(job, known)
    return told


def _folder(job: Job, known: RunSources) -> Remarks:
    if job.model.path is None:
        return Remarks()
    if not (Path(job.model.path) / "config.json").exists():
        note = f"model.path: {job.model.path} is gone; the run goes on from what it has kept"
        return Remarks(notes=(note,))
    try:
        now = load_config(Model(path=job.model.path, config=job.model.config), None)
    except ModelError as error:
        return Remarks(warnings=(f"{error}; the run goes on with the configuration it has kept",))
    changed = changed_keys(known.config, config_values(now))
    if not changed:
        return Remarks()
    text = f"model.path: {job.model.path}/config.json is not as when this run began: "
    text += "; ".join(changed)
    if job.needs_exact_kernels:
        raise ModelError(
            f"{text}; another configuration is another run: put the file back, or take the folder "
            "away (a run with a checkpoint needs it no more), or begin a new run"
        )
    return Remarks(warnings=(f"{text}; the run goes on with the configuration it has kept",))


def _weights(job: Job, known: RunSources) -> Remarks:
    present = {name: digest for name, digest in known.weights.items() if Path(name).exists()}
    return _on_changed("model.path", changed_files(present))


def _tokenizer(job: Job, known: RunSources) -> Remarks:
    if known.tokenizer and not any(Path(name).exists() for name in known.tokenizer):
        first = Path(next(iter(known.tokenizer)))
        where = first if len(known.tokenizer) == 1 else first.parent
        note = f"data.tokenizer: {where} is gone; the run goes on with its own copy"
        return Remarks(notes=(note,))
    return _on_changed("data.tokenizer", changed_files(known.tokenizer))


def _on_changed(key: str, files: list[str]) -> Remarks:
    if not files:
        return Remarks()
    text = (
        f"{key}: {', '.join(files)}: not as when this run began; it goes on with what it has kept"
    )
    return Remarks(warnings=(text,))


_COMPARED: tuple[Callable[[Job, RunSources], Remarks], ...] = (_folder, _weights, _tokenizer)


def _tokenizer_files(job: Job) -> list[Path]:
    if job.data.tokenizer in (None, "bytes"):
        return []
    path = Path(str(job.data.tokenizer)).expanduser()
    folder = path if path.is_dir() else path.parent
    found = {path} if path.is_file() else set()
    for pattern in _TOKENIZER_FILES:
        found.update(file for file in folder.glob(pattern) if file.is_file())
    has_chats = any(source.chat is not None for _, source in job.data.sources)
    if has_chats and job.model.path is not None:
        other = processor_folder([folder, Path(job.model.path)])
        if other not in (None, folder):
            found.update(other / name for name in PROCESSOR_FILES if (other / name).is_file())
    return sorted(found)


def _side_files(job: Job) -> list[Path]:
    found = []
    for _, source in job.data.sources:
        if source.tokens is not None:
            found.append(Path(f"{source.tokens}.json").expanduser())
        if source.megatron is not None:
            found.append(Path(f"{source.megatron}.idx").expanduser())
    return found


def _new_files(known: RunSources, job: Job) -> list[str]:
    """Files that the job names now and that the run did not begin with, such as by a glob."""
    if not known.data_files:
        return []
    return [str(file) for file in _all_data_files(job) if str(file) not in known.data_files]


def _all_data_files(job: Job) -> list[Path]:
    found: list[Path] = []
    for _, source in job.data.sources:
        found += _files_of(source)
    return found


def _data_files(job: Job) -> list[Path]:
    """Those that hold the data; none where they are not this machine's, or too many."""
    found = _all_data_files(job)
    return found if len(found) <= _MOST_DATA_FILES else []


def _files_of(source: SourceKeys) -> list[Path]:
    if source.tokens is not None:
        return [Path(source.tokens).expanduser()]
    if source.megatron is not None:
        return [Path(f"{source.megatron}.bin").expanduser()]
    if source.dataset is not None:
        return dataset_files.find(source.dataset)
    if source.text is not None:
        return matching_files(Path(source.text).expanduser())
    return [] if source.chat is None else _files_of_chats(source.chat)


def _files_of_chats(name: str) -> list[Path]:
    """Their images, too."""
    chats = matching_files(Path(name).expanduser())
    images = (one.path for one in find_images(chats) if not one.is_inline)
    return [*chats, *dict.fromkeys(itertools.islice(images, _MOST_DATA_FILES))]
