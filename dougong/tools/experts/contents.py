"""What a Hugging Face folder or a checkpoint holds, expert by expert. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.checkpoint.directories import MANIFEST, MODEL
from dougong.checkpoint.disk import opened, read_into
from dougong.checkpoint.manifest import MODEL_GROUP, Manifest
from dougong.checkpoint.tensorfile import TensorSpan
from dougong.errors import CheckpointError, ModelError, SourceError
from dougong.models.stored.folder import CONFIG, INDEX, SINGLE, listed_tensors, read_json
from dougong.models.stored.headers import StoredTensor
from dougong.models.stored.quantised import Quantisation, QuantisedTensor, as_read
from dougong.tools.difference import natural_order
from dougong.tools.experts.places import expert_counts, num_idle, place_of

Place = tuple[Path, int, int]
"""A file, where in it, and how many bytes."""


@dataclass(frozen=True)
class StoredPart:
    """A tensor, or an expert's row of one. `places`: where its bytes lie, in order; `dtype`:
    safetensors' word; `shape`: its own; `digest`: of its bytes, where that is recorded;
    `quantised`: of what its values are made, and `number`: which row of that it is, if it is one.
    """

    label: str
    dtype: str
    shape: tuple[int, ...]
    places: tuple[Place, ...]
    digest: str = ""
    quantised: QuantisedTensor | None = None
    number: int | None = None

    @property
    def num_bytes(self) -> int:
        return sum(num_bytes for _, _, num_bytes in self.places)

    def read(self) -> bytearray:
        """All of it. CheckpointError where a file does not give it."""
        if self.quantised is not None:
            return _values_of(self.quantised, self.number)
        data, begin = bytearray(self.num_bytes), 0
        for file, offset, num_bytes in self.places:
            try:
                with opened(file) as fd:
                    read_into(fd, memoryview(data)[begin : begin + num_bytes], offset)
            except (OSError, CheckpointError) as error:
                raise CheckpointError(f"{file}: {self.label}: {error}") from error
            begin += num_bytes
        return data

    def row(self, number: int) -> StoredPart:
        """Of the first dimension, of one that lies in one place."""
        label = f"{self.label}[{number}]"
        if self.quantised is not None:
            return StoredPart(label, self.dtype, self.shape[1:], (), "", self.quantised, number)
        ((file, offset, num_bytes),) = self.places
        size = num_bytes // self.shape[0]
        place = file, offset + number * size, size
        return StoredPart(label, self.dtype, self.shape[1:], (place,))


Expert = dict[str, StoredPart]
"""Its tensors, by what they are called in it."""


@dataclass(frozen=True)
class Contents:
    """`sites`: of each layer with experts, those by number, in the model's order; `others`: what is
    no expert's, by name; `config`: what its config.json says; `twice`: tensors that are the same
    one of the same expert, in pairs."""

    path: Path
    sites: Mapping[str, Mapping[int, Expert]]
    others: Mapping[str, StoredPart]
    config: Mapping[str, Any] = field(default_factory=dict)
    twice: tuple[tuple[str, str], ...] = ()

    @property
    def num_experts(self) -> str:
        """In words: `8 experts in each of 4 layers`."""
        numbers = sorted({len(experts) for experts in self.sites.values()})
        if not numbers:
            return "no experts"
        layers = len(self.sites)
        place = "1 layer" if layers == 1 else f"each of {layers} layers"
        number = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        return f"{number} experts in {place}"


def is_folder(path: Path) -> bool:
    """Whether it is a Hugging Face folder, whole or not."""
    return any((path / name).is_file() for name in (CONFIG, SINGLE, INDEX))


def is_weights(path: Path) -> bool:
    """Whether it is such a folder, or a checkpoint."""
    return is_folder(path) or is_checkpoint(path)


def is_checkpoint(path: Path) -> bool:
    """Whether it is a checkpoint, whole or not."""
    return (path / MANIFEST).is_file()


def absent_words(path: Path) -> str:
    """What is said of a path that is no directory."""
    what = "is a file" if path.is_file() else "no such directory"
    return f"{path}: {what}; give a checkpoint or a Hugging Face folder"


def contents_of(path: Path, by_value: bool = False) -> Contents:
    """Of a checkpoint, or a Hugging Face folder. `by_value`: quantised tensors are there as they
    read, in float32, without their scales. Raises SourceError for what is neither, CheckpointError
    and ModelError where it is not whole."""
    if is_checkpoint(path):
        return _of_checkpoint(path)
    if not path.is_dir():
        raise SourceError(absent_words(path))
    if not is_folder(path):
        raise SourceError(
            f"{path}: is neither a checkpoint nor a Hugging Face folder (no {MANIFEST}, {CONFIG}, "
            f"{SINGLE} or {INDEX})"
        )
    return _of_folder(path, by_value)


def _of_folder(path: Path, by_value: bool) -> Contents:
    try:
        config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
        tensors = listed_tensors(path)
        quantisation = Quantisation.of(config) if by_value else None
        if quantisation is not None:
            tensors = as_read(tensors, quantisation)
    except ModelError as error:
        raise ModelError(str(error).removeprefix("model.path: ")) from error
    gathered = _Gathered.of(config)
    for one in tensors.values():
        gathered.add(one.name, _stored_part(one))
    return gathered.contents(path)


def _stored_part(tensor: StoredTensor) -> StoredPart:
    form = tensor.name, tensor.dtype, tensor.shape
    if isinstance(tensor, QuantisedTensor):
        return StoredPart(*form, (), quantised=tensor)
    return StoredPart(*form, ((tensor.file, tensor.offset, tensor.num_bytes),))


def _values_of(tensor: QuantisedTensor, number: int | None) -> bytearray:
    """In float32, of a row or of all."""
    from dougong.models.stored.values import read_all, read_rows

    found = read_all(tensor) if number is None else read_rows(tensor, number, number + 1)
    return bytearray(found.contiguous().numpy().tobytes())


def _of_checkpoint(path: Path) -> Contents:
    manifest = Manifest.load(path)
    config: dict[str, Any] = {}
    if (path / MODEL / CONFIG).is_file():
        config = read_json(path / MODEL / CONFIG)
    gathered = _Gathered.of(config)
    spans: dict[str, list[tuple[TensorSpan, Place, str]]] = {}
    for file, entry in manifest.entries():
        if entry.group != MODEL_GROUP:
            continue
        place = path / file, entry.offset, entry.num_bytes
        if entry.span is not None:
            spans.setdefault(entry.name, []).append((entry.span, place, entry.dtype))
            continue
        stored = StoredPart(entry.label, entry.dtype, entry.shape, (place,), entry.digest)
        gathered.add(entry.name, stored, entry.row)
    for name, pieces in spans.items():
        pieces.sort(key=lambda piece: piece[0].begin)
        span, _, dtype = pieces[0]
        gathered.add(
            name, StoredPart(name, dtype, span.shape, tuple(place for _, place, _ in pieces))
        )
    return gathered.contents(path)


@dataclass
class _Gathered:
    """`num_idle`: of those that compute nothing, which are left out."""

    config: Mapping[str, Any]
    counts: frozenset[int]
    num_idle: int
    twice: list[tuple[str, str]] = field(default_factory=list)
    sites: dict[str, dict[int, Expert]] = field(default_factory=dict)
    others: dict[str, StoredPart] = field(default_factory=dict)

    @staticmethod
    def of(config: Mapping[str, Any]) -> _Gathered:
        return _Gathered(config, expert_counts(config), num_idle(config))

    def add(self, name: str, stored: StoredPart, row: int | None = None) -> None:
        """`row`: of whom it is, where `stored` is a row of the tensor by that name already."""
        # A checkpoint's row is an expert's, whatever the tensor's size.
        shape = stored.shape if row is None else (max(self.counts, default=0), *stored.shape)
        with_idle = {count + self.num_idle for count in self.counts}
        place = place_of(name, shape, self.counts | with_idle)
        if place is None:
            self.others[stored.label] = stored
            return
        experts = self.sites.setdefault(place.site, {})
        if place.expert is not None:
            self._add_row(experts, place.expert, place.part, stored)
        elif row is None:
            for number in range(stored.shape[0]):
                self._add_row(experts, number, place.part, stored.row(number))
        else:
            self._add_row(experts, row, place.part, stored)

    def _add_row(
        self, experts: dict[int, Expert], number: int, part: str, stored: StoredPart
    ) -> None:
        if self.num_idle and number >= max(self.counts, default=number + 1):
            return
        expert = experts.setdefault(number, {})
        if part in expert:
            self.twice.append((expert[part].label, stored.label))
        expert[part] = stored

    def contents(self, path: Path) -> Contents:
        sites = {}
        for site in sorted(self.sites, key=natural_order):
            experts = self.sites[site]
            sites[site] = {number: experts[number] for number in sorted(experts)}
        others = {name: self.others[name] for name in sorted(self.others, key=natural_order)}
        return Contents(path, sites, others, self.config, tuple(self.twice))
