"""The files of a DeepSpeed universal checkpoint: found, read as tensors and plain values alone, and
looked at before anybody believes them. `universal.py` says what lies where."""

from __future__ import annotations

import math
import pickle
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.errors import SourceError

AGAIN = "convert the checkpoint again with ds_to_universal, or take an older one"
"""The remedy of whatever is not as DeepSpeed writes it."""
_MAKE = (
    "make one: python -m deepspeed.checkpoint.ds_to_universal --input_folder CHECKPOINT/TAG "
    "--output_folder FOLDER"
)
_TRUST = (
    "to load it would be to run its code; load it once where you trust it, and save what is needed "
    "as plain values"
)
_LATEST = "latest_universal"
_PARAM = "param"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Misfit(SourceError):
    """One thing that is wrong. `place`: a file, or a parameter's name; `words`: what is wrong with
    it; `remedy`: the next step."""

    def __init__(self, place: str, words: str, remedy: str = AGAIN) -> None:
        super().__init__(place, words, remedy)
        self.place, self.words, self.remedy = place, words, remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.words}; {self.remedy}"


def chosen_folder(folder: Path) -> Path:
    """The checkpoint itself: `folder`, or what DeepSpeed has noted in it as the latest. SourceError
    where there is no such folder."""
    _refuse_no_folder(folder, f"give the FOLDER that ds_to_universal has written, or {_MAKE}")
    noted = folder / _LATEST
    if not noted.is_file() or (folder / "zero").is_dir():
        return folder
    chosen = folder / noted.read_text(errors="replace").strip()
    _refuse_no_folder(chosen, f"{noted} names it; give the folder of a checkpoint itself")
    return chosen


def _refuse_no_folder(folder: Path, remedy: str) -> None:
    if folder.is_dir():
        return
    words = "is a file, and no folder" if folder.exists() else "no such folder"
    raise SourceError(f"{folder}: {words}; {remedy}")


def parameters_in(folder: Path) -> dict[str, Path]:
    """By name, with the prefix left out that a wrapper of the model has given all of them."""
    zero = folder / "zero"
    if not zero.is_dir():
        raise SourceError(
            f"{folder}: has no folder `zero`, so it is no universal checkpoint of DeepSpeed; "
            + _MAKE
        )
    found = {path.name: path for path in sorted(zero.iterdir()) if path.is_dir()}
    if not found:
        raise SourceError(f"{zero}: holds no parameter; make the checkpoint anew")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): path for name, path in found.items()}
    return found


class ModelStates:
    """What DeepSpeed notes beside the tensors. `step`: the number of steps that it has done;
    `num_updates`: those in which it has moved weights; `shapes`: of all parameters, as far as they
    are noted; `module`: tensors that no optimizer has, with their values."""

    def __init__(self, folder: Path) -> None:
        """Raises SourceError where they are not there, or say what cannot be."""
        files = sorted(folder.glob("*mp_rank_00_model_states.pt"))
        if not files:
            raise SourceError(
                f"{folder}: has no file mp_rank_00_model_states.pt, which says how many steps were "
                "done; ds_to_universal copies it there"
            )
        self._file = files[0]
        states = load(self._file)
        if not isinstance(states, Mapping):
            raise Misfit(str(self._file), "holds no states of a model")
        self.step = self._number(states.get("global_steps"), "global_steps", 1, None)
        skipped = states.get("skipped_steps") or 0
        self.num_updates = self.step - self._number(skipped, "skipped_steps", 0, self.step)
        self.shapes = dict(self._shapes(states.get("param_shapes") or []))
        # Of ZeRO 3 what is partitioned stands there too, without its values.
        self.module = dict(self._tensors(states.get("module") or {}))

    def _number(self, value: Any, key: str, least: int, most: int | None) -> int:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number and least <= value and (most is None or value <= most):
            return int(value)
        limit = "" if most is None else f" to {most}"
        raise Misfit(str(self._file), f"says {key}: {value}, and not a number from {least}{limit}")

    def _shapes(self, groups: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape): a dict for each group of parameters."""
        for group in groups if isinstance(groups, list) else [groups]:
            if not isinstance(group, Mapping):
                raise Misfit(str(self._file), "says param_shapes that name no parameters")
            for name, shape in group.items():
                if not isinstance(shape, (list, tuple)):
                    raise Misfit(str(self._file), f"says param_shapes: {name}: {shape}")
                yield str(name).removeprefix("module."), tuple(shape)

    def _tensors(self, module: Any) -> Iterator[tuple[str, Tensor]]:
        if not isinstance(module, Mapping):
            raise Misfit(str(self._file), "says a module that names no tensors")
        for name, value in module.items():
            if isinstance(value, Tensor) and value.numel():
                yield str(name), value


def tensor_in(file: Path) -> Tensor:
    """A tensor alone, or beside what DeepSpeed notes of its slices."""
    found = load(file)
    tensor = found.get(_PARAM) if isinstance(found, Mapping) else found
    if not isinstance(tensor, Tensor):
        raise Misfit(str(file), "holds no tensor")
    return tensor


def refuse_form(place: str, tensor: Tensor, is_floating: bool) -> None:
    """Misfit for a tensor whose values cannot be taken over. Reads none of them."""
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        raise Misfit(place, f"holds a tensor of layout {layout}, and not a dense one")
    if tensor.device.type != "cpu":
        raise Misfit(place, f"holds a tensor of device {tensor.device}, which has no values")
    if is_floating and tensor.dtype not in _FLOATS:
        raise Misfit(place, f"holds {tensor.dtype}, and not float32")


def refuse_values(place: str, tensor: Tensor, least: float = -math.inf) -> None:
    """Misfit where a floating tensor holds what is not finite in float32, or less than `least`."""
    if not tensor.numel() or not tensor.is_floating_point():
        return
    # NaN is both the least and the greatest; no copy of the tensor is made.
    low, high = (float(edge.float()) for edge in tensor.detach().aminmax())
    if math.isfinite(low) and math.isfinite(high) and low >= least:
        return
    values = tensor.detach().float()
    is_bad = ~torch.isfinite(values) | (values < least)
    first = int(is_bad.flatten().to(torch.uint8).argmax())
    index = [int(one) for one in torch.unravel_index(torch.tensor(first), tensor.shape)]
    value, count = float(tensor[tuple(index)]), int(is_bad.sum())
    more = f" and {count - 1:,} more like it" if count > 1 else ""
    rule = (
        "is not finite in float32"
        if not torch.isfinite(values[tuple(index)])
        else f"is less than {least:g}"
    )
    raise Misfit(place, f"holds {value:g} at {index}{more}, which {rule}")


def updates_in(file: Path, most: int) -> int:
    """The count of updates in a `step.pt`: a whole number from 0 to `most`."""
    value = load(file)
    if isinstance(value, Tensor):
        refuse_form(str(file), value, is_floating=False)
        if value.numel() != 1:
            raise Misfit(str(file), f"holds {value.numel()} numbers, and not one count of updates")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Misfit(str(file), "holds no count of updates")
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= most:
        raise Misfit(
            str(file), f"says {value:g} updates, and not a whole number from 0 to {most}, the step"
        )
    return int(value)


def load(file: Path) -> Any:
    """What a file of torch holds; its tensors stay on disk until they are read."""
    try:
        # Whoever opens a pipe waits for a writer.
        kind = stat.S_IFMT(file.stat().st_mode)
        if kind != stat.S_IFREG:
            raise Misfit(str(file), f"is {_KINDS.get(kind, 'something else')}, and no file")
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise Misfit(str(file), "is not there") from error
    except OSError as error:
        words = f"cannot be read: {error.strerror or error}"
        raise Misfit(str(file), words, f"mend that, or {AGAIN}") from error
    except Misfit:
        raise
    except Exception as error:  # what torch says of a damaged file speaks of its own insides
        if isinstance(error, pickle.UnpicklingError) and _has_whole_values(file):
            raise Misfit(str(file), "holds more than tensors and plain values", _TRUST) from error
        size = file.stat().st_size
        words = f"is damaged, or no file of torch ({size:,} bytes)"
        raise Misfit(str(file), words) from error


def _has_whole_values(file: Path) -> bool:
    """Whether the part of it that says what it holds is as it was written, by its checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            archive.read(name)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return False
    return True
