"""What a Hugging Face folder holds, by the headers of its files: whole or not, and in which dtypes.

Imports neither torch nor safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.errors import ModelError
from dougong.job.rule import FOLDER_CODE_KEYS
from dougong.models.stored.headers import (
    AGAIN,
    LFS_POINTER,
    StoredTensor,
    file_tensors,
    refused,
    what_it_is,
)
from dougong.models.stored.quantised import Quantisation, as_read, refuse_other_methods

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
"""What PEFT writes beside an adapter's weights: which model it changes, and how."""
HOW_TO_MERGE = "(PEFT's `merge_and_unload`, then `save_pretrained`) and give that folder"
EXTRA_LAYERS = (
    "num_nextn_predict_layers",
    "num_mtp_modules",
    "mtp_num_hidden_layers",
    "num_mtp_layers",
    "use_mtp",
)
"""What families call the number of their layers for multi-token prediction; `use_mtp` is a flag."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Look at all that can be known of a folder without building its model: configuration, headers,
    sizes. Raises `ModelError`, naming the file."""
    for problem in problems(folder):
        raise ModelError(problem)


def problems(folder: Path) -> list[str]:
    """What is wrong with a folder, as `check_folder` would say it; empty where nothing is."""
    found = []
    look = stored_tensors
    try:
        read_config(folder)
    except ModelError as error:
        found.append(str(error))
        look = listed_tensors  # how its values are quantised is not known
    try:
        look(folder)
    except ModelError as error:
        found.append(str(error))
    return found


def own_code_words(values: Mapping[str, Any]) -> str:
    """What is told of a config.json that names code in its folder, of a family that transformers
    knows; empty where it names none."""
    found = [key for key in FOLDER_CODE_KEYS if key in values]
    if not found:
        return ""
    return (
        f"its own code ({', '.join(found)}) is not used: it is not run, and does not go into "
        f"checkpoints; the model is transformers' {values.get('model_type')}"
    )


def extra_layer_words(key: str, number: object) -> str:
    """What is told of a configuration with layers for multi-token prediction."""
    return (
        f"its configuration says {key}: {number}; layers for multi-token prediction are not "
        "trained, so the configuration of this run says that there are none"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises `ModelError` when there is none, or its weights are
    quantised in a way that is not read."""
    path = folder / CONFIG
    if not path.exists():
        raise ModelError(f"model.path: {folder} has no {CONFIG}; {_instead_of(folder)}")
    config = read_json(path)
    refuse_other_methods(folder, config)
    return config


def _instead_of(folder: Path) -> str:
    if (folder / ADAPTER).exists():
        return (
            f"its {ADAPTER} says that it is an adapter, and adapters are not trained: merge it "
            f"into its model {HOW_TO_MERGE}"
        )
    return "give a Hugging Face folder"


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object. Raises `ModelError` with the reason when it does not."""
    value = _parse_json(path, _read(path))
    if not isinstance(value, dict):
        raise refused(path, f"holds a {type(value).__name__}, not a JSON object; {AGAIN}")
    return value


def read_small_file(path: Path) -> bytes:
    """A file beside the weights. Raises `ModelError` with the reason for a git-lfs pointer, and for
    JSON that is cut short."""
    data = _read(path)
    if path.suffix == ".json":
        _parse_json(path, data)
    elif data.startswith(LFS_POINTER):
        raise refused(path, str(what_it_is(data)))
    return data


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder's safetensors files, by name: of `model.safetensors` where there is
    one, else of all files that the index names, as transformers chooses. What its configuration
    says is quantised is there as it reads, without its scales.

    Raises `ModelError` when a file is absent, cut short or no safetensors file, when the index
    names a tensor that its file does not hold, or when values are quantised in a way that is not
    read.
    """
    path = folder / CONFIG
    config = read_config(folder) if path.exists() else {}
    return as_read(listed_tensors(folder), Quantisation.of(config))


def listed_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The same as they are stored, whatever that is."""
    # A link into a cache that was emptied is a file that is listed and cannot be opened.
    if _is_listed(folder / SINGLE):
        return {tensor.name: tensor for tensor in file_tensors(folder / SINGLE)}
    if _is_listed(folder / INDEX):
        return _sharded(folder)
    raise ModelError(
        f"model.path: {folder} holds neither {INDEX} nor {SINGLE}; only safetensors are read"
        f"{_other_format(folder)}"
    )


def weight_files(folder: Path) -> set[str]:
    """The files that `stored_tensors` reads."""
    if _is_listed(folder / SINGLE):
        return {SINGLE}
    return {INDEX, *_weight_map(folder / INDEX).values()}


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    named = _weight_map(folder / INDEX)
    files = sorted(set(named.values()))
    _refuse_absent(folder, files)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in file_tensors(folder / file):
            # Where two files hold one name, the index says which is meant.
            if named.get(tensor.name, file) == file:
                tensors[tensor.name] = tensor
    missing = [name for name in named if name not in tensors]
    if missing:
        raise refused(
            folder / named[missing[0]],
            f"does not hold {missing[0]}, which {INDEX} says it does ({len(missing)} such "
            f"tensors); its files are of different downloads: {AGAIN}",
        )
    return tensors


def _refuse_absent(folder: Path, files: Sequence[str]) -> None:
    absent = [file for file in files if not (folder / file).exists()]
    if absent:
        raise refused(
            folder / INDEX,
            f"names {len(files)} files, of which {len(absent)} are not there: {few(absent)}; "
            f"{AGAIN}",
        )


def _weight_map(path: Path) -> dict[str, str]:
    """File by tensor. A file's name is a plain one: nothing outside the folder is read."""
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise refused(path, f"has no weight_map, which names each tensor's file; {AGAIN}")
    for name, file in found.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise refused(path, f"{name} is said to lie in {file!r}, which is no file's name")
    return found


def _is_listed(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _other_format(folder: Path) -> str:
    found = sorted(path.name for path in folder.glob("*.bin"))
    if not found:
        return ""
    return f" ({few(found)} may run code when opened); save it with `save_pretrained`"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}") from error


def _parse_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        reason = what_it_is(data) or f"is not JSON ({error}); {AGAIN}"
        raise refused(path, reason) from error


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
