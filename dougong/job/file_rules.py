"""Rules that tie a job to the files of this machine: model folder and data."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dougong.job.data_files import (
    LIBRARY,
    STDLIB,
    TEXT_COLUMN,
    ending_by_content,
    names_files,
    standard_library,
    wrong_ending,
)
from dougong.job.parts.data import SourceKeys
from dougong.job.rule import Breach, Rule, flat
from dougong.job.schema import Job
from dougong.job.tokenizer_choice import ready_tokens
from dougong.job.yaml.provenance import dotted


def _model_folder(job: Job) -> Iterator[Breach]:
    if job.model.path is None:
        return
    path = ("model", "path")
    file = Path(job.model.path) / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        advice = "name a Hugging Face folder that is on this machine"
        yield Breach(path, f"{file}: {error.strerror}; {advice}")
        return
    except ValueError as error:
        yield Breach(path, f"{file} is not JSON ({error}); copy the model's folder again")
        return
    if not isinstance(found, dict):
        yield Breach(path, f"{file} holds no JSON object; copy the model's folder again")


def _adapter_folder(job: Job) -> Iterator[Breach]:
    lora, path = job.model.lora, ("model", "lora", "path")
    if lora is None or lora.path is None:
        return
    if job.model.path is None:
        text = "an adapter belongs to a model with weights: name its folder in model.path"
        yield Breach(path, text)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(lora.path) / name).is_file():
            text = f"there is no {name} in {lora.path}; give a folder that peft has written"
            yield Breach(path, text)
            return


def _data_files(job: Job) -> Iterator[Breach]:
    for place, source in job.data.sources:
        for breach in _source_files(source):
            yield replace(breach, path=(*place, *breach.path))


def _source_files(source: SourceKeys) -> Iterator[Breach]:
    """Paths are the keys of the source alone."""
    if source.text is not None and source.text != STDLIB:
        yield from _text_file(source.text)
    if source.tokens is not None and not os.path.isfile(source.tokens):
        text = f"there is no file {source.tokens} on this machine; check the path"
        yield Breach(("tokens",), text)
    if source.megatron is not None:
        yield from _megatron_files(source.megatron)
    if source.dataset is not None:
        yield from _dataset_files(source.dataset)
    if source.chat is not None and not _is_found(source.chat):
        text = f"no file is called {source.chat} or matches it as a glob; check the path"
        if os.path.isdir(source.chat):
            example = f"{source.chat.rstrip('/')}/*.jsonl"
            text = f"{source.chat} is a folder; name its files with a glob, such as {example}"
        yield Breach(("chat",), text)


def _same_data(job: Job) -> Iterator[Breach]:
    """What one source of a mixture holds out another must not train on."""
    known: dict[_Identity, list[_FileOfSource]] = {}
    for place, source in job.data.sources if job.data.mixture else ():
        found = None
        for identity, name in _identities(source).items():
            mine = _FileOfSource(dotted(place), name, _column_of(source))
            others = known.setdefault(identity, [])
            clashing = (other for other in others if found is None and mine.clashes(other))
            found = next(((mine, other) for other in clashing), found)
            others.append(mine)
        if found is not None and source.source is not None:
            yield Breach((*place, source.source), found[0].refusal(found[1]))


_Identity = tuple[int, int] | str
"""A file's device and number on it, which all of its names share; a name on the hub."""


@dataclass(frozen=True)
class _FileOfSource:
    """What a source at `place` calls a file. `column`: of it; None: all of it."""

    place: str
    name: str
    column: str | None

    def clashes(self, other: _FileOfSource) -> bool:
        """Whether both read the same text: two columns of one data set are not."""
        return self.column is None or other.column in (None, self.column)

    def refusal(self, other: _FileOfSource) -> str:
        called = "" if self.name == other.name else f", as {other.name}"
        return (
            f"{self.name} is data of {other.place} already{called}, and what one of them holds out "
            "the other would train on; name it in one of them, with the weight of both"
        )


def _column_of(source: SourceKeys) -> str | None:
    return None if source.dataset is None else source.column or TEXT_COLUMN


def _identities(source: SourceKeys) -> dict[_Identity, str]:
    """The files of a source, each with what it is called; where there are none, its own name."""
    key = source.source
    if key is None:
        return {}
    name = str(getattr(source, key))
    if (key, name) == ("text", STDLIB):
        return dict.fromkeys(_numbers(LIBRARY / file for file in standard_library(LIBRARY)), name)
    found = _numbers(_files(f"{name}.bin" if key == "megatron" else name))
    return dict(found) if found else {name: name}


def _files(name: str) -> Iterator[Path]:
    """Of a name, a glob or a folder (a data set's)."""
    names = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    for path in map(Path, names):
        yield from (path.rglob("*") if path.is_dir() and len(names) == 1 else (path,))


def _numbers(files: Iterable[Path]) -> dict[_Identity, str]:
    found: dict[_Identity, str] = {}
    for file in files:
        if os.path.isfile(file):
            status = file.stat()
            found.setdefault((status.st_dev, status.st_ino), str(file))
    return found


def _is_found(name: str) -> bool:
    return os.path.isfile(name) or any(map(os.path.isfile, glob.iglob(name, recursive=True)))


def _text_file(text: str) -> Iterator[Breach]:
    path = ("text",)
    if os.path.isdir(text):
        example = f"{text.rstrip('/')}/**/*.txt"
        yield Breach(path, f"{text} is a folder; name its files with a glob, such as {example}")
        return
    if not _is_found(text):
        advice = "check the path, or use `stdlib`"
        yield Breach(path, f"no file is called {text} or matches it as a glob; {advice}")


def _megatron_files(prefix: str) -> Iterator[Breach]:
    files = (f"{prefix}.bin", f"{prefix}.idx")
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        names = " and no file ".join(missing)
        yield Breach(("megatron",), f"there is no file {names}; give the path without .bin")


def _dataset_files(name: str) -> Iterator[Breach]:
    path = ("dataset",)
    if names_files(name):
        if not os.path.exists(name) and not any(glob.iglob(name, recursive=True)):
            yield Breach(path, f"no file is called {name} or matches it as a glob; check the path")
    elif name.startswith(("/", ".", "~")) and not os.path.isdir(name):
        if (ending := _ending(name)) is not None:
            yield Breach(path, f"{name} {wrong_ending(ending)}")
        else:
            yield Breach(path, f"{name} is no folder on this machine; {_dataset_advice(name)}")


def _ending(name: str) -> str | None:
    try:
        return ending_by_content(Path(name))
    except OSError:
        return None


def _dataset_advice(name: str) -> str:
    if os.path.isfile(name):
        return "a plain text file goes into data.text, token ids into data.tokens"
    return "check the path, or give a name on the hub"


def _vocabulary(job: Job) -> Iterator[Breach]:
    ready = ready_tokens(job.data)
    if ready is None or job.model.family is None or "vocab_size" in flat(job.model.config):
        return
    text = (
        f"has no vocab_size, and data.{ready} does not say how many ids there are; add "
        "vocab_size: NUMBER"
    )
    yield Breach(("model", "config"), text)


FILE_RULES = (
    Rule(("model",), _model_folder),
    Rule(("model",), _adapter_folder),
    Rule(("data",), _data_files),
    Rule(("data",), _same_data),
    Rule(("data", "model"), _vocabulary),
)
