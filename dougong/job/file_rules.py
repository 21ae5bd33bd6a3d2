"""Rules that tie a job to the files of this machine: model folder and data."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dougong.job.data_files import ending_by_content, names_files, wrong_ending
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
    if source.text is not None and source.text != "stdlib":
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
    known: dict[tuple[str, str], str] = {}
    for place, source in job.data.sources if job.data.mixture else ():
        key = source.source
        for name in _names_of(source):
            other = known.setdefault((name, source.column or ""), dotted(place))
            if other != dotted(place) and key is not None:
                text = (
                    f"{name} is data of {other} already, and what one of them holds out the other "
                    "would train on; name it in one of them, with the weight of both"
                )
                yield Breach((*place, key), text)
                break


def _names_of(source: SourceKeys) -> list[str]:
    """The files of a source by their real paths; its own name where it means none here."""
    key = source.source
    name = None if key is None else str(getattr(source, key))
    if name is None:
        return []
    path = f"{name}.bin" if key == "megatron" else name
    files = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    return sorted({os.path.realpath(file) for file in files}) or [name]


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
