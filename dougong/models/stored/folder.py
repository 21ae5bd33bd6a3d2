"""What a Hugging Face folder holds, by the headers of its files: whole or not, and in which dtypes.

Imports neither torch nor safetensors: a safetensors file begins with its header's length (eight
bytes, little-endian) and the header, which is JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.errors import ModelError
from dougong.job.rule import FOLDER_CODE_KEYS

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
DEQUANTISE = (
    "which cannot be trained; dequantise the weights first (read them with transformers, "
    "`save_pretrained` them in bfloat16 or float32) and give that folder"
)

_AGAIN = "download it again"
LFS_POINTER = b"version https://git-lfs"
"""How the few lines begin that git-lfs puts in a file's place until it is fetched."""
_MOST_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_INTEGERS = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
}  # fmt: skip
_SCALE = re.compile(r"(^|[._])(scales?|scale_inv|zeros|zero_points?|qzeros|absmax|quant_state\S*)$")
"""How the tensors end by which quantised values are multiplied or moved."""
_WEIGHT = re.compile(r"(^|[._])(weight|proj|bias)$")
"""How trained tensors end; a table of a router may be of integers."""
_SCALED = ("{}.qweight", "{}_packed", "{}_blocks")
"""Where a scale's values lie under names of their own; {}: what stands before the scale's word."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype in safetensors' word, its shape, and which bytes it has."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def is_floating(self) -> bool:
        return self.dtype in _FLOATS


def check_folder(folder: Path) -> None:
    """Look at all that can be known of a folder without building its model: configuration, headers,
    sizes. Raises `ModelError`, naming the file."""
    for problem in problems(folder):
        raise ModelError(problem)


def problems(folder: Path) -> list[str]:
    """What is wrong with a folder, as `check_folder` would say it; empty where nothing is."""
    found = []
    for look in (read_config, stored_tensors):
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
    quantised."""
    path = folder / CONFIG
    if not path.exists():
        raise ModelError(f"model.path: {folder} has no {CONFIG}; {_instead_of(folder)}")
    config = read_json(path)
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            raise ModelError(
                f"model.path: {folder} holds quantised weights ({key} in its {CONFIG}), "
                f"{DEQUANTISE}"
            )
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
        raise _refused(path, f"holds a {type(value).__name__}, not a JSON object; {_AGAIN}")
    return value


def read_small_file(path: Path) -> bytes:
    """A file beside the weights. Raises `ModelError` with the reason for a git-lfs pointer, and for
    JSON that is cut short."""
    data = _read(path)
    if path.suffix == ".json":
        _parse_json(path, data)
    elif data.startswith(LFS_POINTER):
        raise _refused(path, str(_what_it_is(data)))
    return data


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder's safetensors files, by name: of `model.safetensors` where there is
    one, else of all files that the index names, as transformers chooses.

    Raises `ModelError` when a file is absent, cut short or no safetensors file, when the index
    names a tensor that its file does not hold, or when the values are quantised.
    """
    tensors = listed_tensors(folder)
    _refuse_quantised(tensors)
    return tensors


def listed_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The same, whatever its values are stored as."""
    # A link into a cache that was emptied is a file that is listed and cannot be opened.
    if _is_listed(folder / SINGLE):
        return {tensor.name: tensor for tensor in _file_tensors(folder / SINGLE)}
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


def is_scale(name: str) -> bool:
    """Whether a tensor's name says that others must be multiplied by it, or moved."""
    return _SCALE.search(name) is not None


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    named = _weight_map(folder / INDEX)
    files = sorted(set(named.values()))
    _refuse_absent(folder, files)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _file_tensors(folder / file):
            # Where two files hold one name, the index says which is meant.
            if named.get(tensor.name, file) == file:
                tensors[tensor.name] = tensor
    missing = [name for name in named if name not in tensors]
    if missing:
        raise _refused(
            folder / named[missing[0]],
            f"does not hold {missing[0]}, which {INDEX} says it does ({len(missing)} such "
            f"tensors); its files are of different downloads: {_AGAIN}",
        )
    return tensors


def _refuse_absent(folder: Path, files: Sequence[str]) -> None:
    absent = [file for file in files if not (folder / file).exists()]
    if absent:
        raise _refused(
            folder / INDEX,
            f"names {len(files)} files, of which {len(absent)} are not there: {few(absent)}; "
            f"{_AGAIN}",
        )


def _weight_map(path: Path) -> dict[str, str]:
    """File by tensor. A file's name is a plain one: nothing outside the folder is read."""
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise _refused(path, f"has no weight_map, which names each tensor's file; {_AGAIN}")
    for name, file in found.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise _refused(path, f"{name} is said to lie in {file!r}, which is no file's name")
    return found


def _file_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of one file, whose size must be what its header promises."""
    header, num_bytes = _header(path)
    tensors, end = _parse(path, header)
    for tensor in tensors:
        _check_size(tensor)
    promised = len(header) + end
    if num_bytes < promised:
        raise _refused(path, _cut_short(num_bytes, promised))
    if num_bytes > promised:
        reason = f"has {num_bytes:,} bytes, but its header accounts for {promised:,}; {_AGAIN}"
        raise _refused(path, reason)
    return tensors


def _header(path: Path) -> tuple[bytes, int]:
    """A file's bytes up to its first tensor, and the number of all its bytes."""
    try:
        with path.open("rb") as file:
            num_bytes = file.seek(0, 2)
            file.seek(0)
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            # The length is nonsense where the file is of another kind: its beginning says which.
            header = start + file.read(min(length, _MOST_HEADER_BYTES))
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    if num_bytes < _LENGTH_BYTES or length > _MOST_HEADER_BYTES:
        known = _what_it_is(header)
        unknown = f"is not a safetensors file ({num_bytes:,} bytes, no header); {_AGAIN}"
        raise _refused(path, known or unknown)
    if len(header) < _LENGTH_BYTES + length:
        raise _refused(path, _cut_short(num_bytes, _LENGTH_BYTES + length))
    return header, num_bytes


def _parse(path: Path, header: bytes) -> tuple[list[StoredTensor], int]:
    """The tensors, and where the last one's bytes end."""
    tensors, end = [], 0
    try:
        entries = json.loads(header[_LENGTH_BYTES:])
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            place = len(header) + begin, stop - begin
            tensors.append(StoredTensor(path, name, entry["dtype"], shape, *place))
            end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = _what_it_is(header) or f"is not a safetensors file (no header); {_AGAIN}"
        raise _refused(path, reason) from error
    return tensors, end


def _check_size(tensor: StoredTensor) -> None:
    width = (_FLOATS | _INTEGERS).get(tensor.dtype)
    if width is not None and math.prod(tensor.shape) * width != tensor.num_bytes:
        raise _refused(
            tensor.file,
            f"{tensor.name} of {tensor.dtype} {list(tensor.shape)} is said to have "
            f"{tensor.num_bytes} bytes; the file is damaged: {_AGAIN}",
        )


def _refuse_quantised(tensors: Mapping[str, StoredTensor]) -> None:
    """Values that are read without their scales would be another model's."""
    for tensor in tensors.values():
        if tensor.dtype not in _FLOATS and tensor.dtype not in _INTEGERS:
            raise _refused(
                tensor.file,
                f"{tensor.name} is stored as {tensor.dtype}, {DEQUANTISE}; "
                f"read are {', '.join(_FLOATS)}",
            )
        if tensor.dtype in _INTEGERS and _WEIGHT.search(tensor.name):
            raise _refused(
                tensor.file,
                f"{tensor.name} is stored as {tensor.dtype}, as quantised weights are, "
                f"{DEQUANTISE}",
            )
        if is_scale(tensor.name) and _scaled(tensor.name, tensors):
            raise scale_refused(tensor)


def scale_refused(tensor: StoredTensor) -> ModelError:
    """The refusal of a scale that nobody reads."""
    return _refused(
        tensor.file,
        f"holds {tensor.name} ({tensor.dtype}), a scale of quantised weights, {DEQUANTISE}",
    )


def _scaled(name: str, tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether the values that `name` scales are stored too."""
    stem = _SCALE.sub("", name)
    # A scale beside a tensor of any other name may be a parameter of the model.
    if stem.endswith("weight"):
        return stem in tensors
    return any(values.format(stem) in tensors for values in _SCALED)


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
        raise _refused(path, f"cannot be read: {error.strerror}") from error


def _parse_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        reason = _what_it_is(data) or f"is not JSON ({error}); {_AGAIN}"
        raise _refused(path, reason) from error


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(f"model.path: {path}: {reason}")


def _cut_short(num_bytes: int, promised: int) -> str:
    return (
        f"is cut short: it has {num_bytes:,} bytes, its header promises {promised:,}; "
        f"the download was not complete: {_AGAIN}"
    )


def _what_it_is(begin: bytes) -> str | None:
    """What a file is that should be another, by how it begins; None: unknown."""
    if not begin.strip(b"\0"):
        return f"is empty: the download was not complete; {_AGAIN}"
    if begin.startswith(LFS_POINTER):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in the folder"
    if begin.lstrip()[:1] == b"<":
        return f"is a web page, not the file itself; {_AGAIN}"
    if begin.startswith(b"PK"):
        return "is a zip (a pickled torch file under another name); save it with `save_pretrained`"
    return None


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
