"""Does what a manifest says make sense? Imports no torch.

Its digest says that the text is as somebody wrote it. These rules need no digest: a text that says
two things of one tensor, or counts its bytes wrong, is refused, whoever wrote it. What contradicts
nothing can still be another's; against that a checkpoint is signed (`signing`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from dougong.checkpoint.proof.spans import ListedSpan, check_spans
from dougong.parallel.pieces import OwnedPiece

MODEL_GROUP = "model"
_MOST_HEADER_BYTES = 100_000_000
"""As the safetensors library has it."""
_MOST_NAME_BYTES = 255
_EXPERT = re.compile(r"(.*)\[(\d+)\]")

Whole = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Shape = Annotated[list[Whole], Field(max_length=64)]
_Span = tuple[Whole, Whole, Shape]
Entry = tuple[str, str, Whole | _Span | None, Whole, Whole, str, Shape, str]
"""(group, name, place, offset, bytes, dtype, shape, digest); the place: None of a whole tensor, the
number of a row, or (begin, end, shape of the whole) of a span of elements."""


class _File(BaseModel):
    bytes: Whole
    digest: str | None = None
    header: tuple[Whole, str] | None = None
    tensors: list[Entry] = []


class _Logical(BaseModel):
    dense: dict[str, Shape] = {}
    experts: dict[str, Annotated[Shape, Field(min_length=1)]] = {}


class _WrittenRecipe(BaseModel):
    digest: str


class _WrittenKernels(BaseModel):
    """As `fingerprint.judge` records them."""

    roles: dict[str, list[str]]
    prints: dict[str, dict[str, Any]]


_Nothing = Annotated[dict[str, Any], Field(max_length=0)]


class _WrittenMetadata(BaseModel):
    """What a resume reads of it; the rest is for people."""

    ledger: str | None = None
    data: dict[str, Any] = {}
    recipe: _WrittenRecipe | None = None
    kernels: _WrittenKernels | _Nothing = {}
    versions: dict[str, str] = {}


class _Body(BaseModel):
    step: Whole
    generation: Whole
    header: _WrittenMetadata
    files: dict[str, _File]
    logical: _Logical
    keep_float32: list[str]
    fence: Whole = 0
    held: dict[str, Whole] = {}

    def entries(self) -> Iterator[tuple[str, Entry]]:
        for name, file in self.files.items():
            for entry in file.tensors:
                yield name, entry


def check_sense(raw: Any, item_bytes: Mapping[str, int]) -> None:
    """ValueError where the body of a manifest contradicts itself: of a file's name, an entry's
    bytes, the model's tensors, or what it holds. `item_bytes`: of a value, by dtype."""
    try:
        body = _Body.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}; it is {first['input']!r:.80}") from None
    for name, file in body.files.items():
        _check_file(name, file, item_bytes)
    _check_one_place_each(body)
    _check_counts(body)
    _check_model(body)


def count_held(groups: Iterable[str]) -> dict[str, int]:
    """How many tensors and rows each group has: what `held` says."""
    return dict(sorted(Counter(groups).items()))


def _check_file(name: str, file: _File, item_bytes: Mapping[str, int]) -> None:
    _check_path(name)
    if file.header is not None and file.header[0] > _MOST_HEADER_BYTES:
        what = f"a header of {file.header[0]} bytes"
        raise ValueError(f"{name}: {what}; safetensors' have at most {_MOST_HEADER_BYTES}")
    for entry in file.tensors:
        *_, num_bytes, dtype, shape, _ = entry
        if dtype not in item_bytes:
            raise ValueError(f"{name}: {_label(entry)}: unknown dtype {dtype!r}")
        due = math.prod(shape) * item_bytes[dtype]
        if num_bytes != due:
            what = f"{dtype} {shape} takes {due} bytes"
            raise ValueError(f"{name}: {_label(entry)}: {what}, it says {num_bytes}")


def _check_path(name: str) -> None:
    """Nothing may be asked of an operating system that it cannot be asked, nor one file be named in
    two ways."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name}: leads out of the directory")
    if path.as_posix() != name or not path.parts:
        raise ValueError(f"{name!r}: is no file's name inside the directory")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ValueError(f"{name!r}: a file's name holds no control characters")
    longest = max(path.parts, key=lambda part: len(part.encode()))
    if len(longest.encode()) > _MOST_NAME_BYTES or len(path.parts) > 16:
        most = f"{_MOST_NAME_BYTES} bytes and 16 folders"
        raise ValueError(f"{name[:80]!r}...: a file's name has at most {most}")


def _check_one_place_each(body: _Body) -> None:
    places: dict[tuple[str, str], str] = {}
    for name, entry in body.entries():
        key = entry[0], _place(entry)
        if key in places:
            raise ValueError(f"{_label(entry)}: lies in {places[key]} and in {name}")
        places[key] = name
    check_spans(_listed_spans(body))
    for name, entry in body.entries():
        group, tensor, place, *_ = entry
        if isinstance(place, tuple) and (group, tensor) in places:
            there = places[group, tensor]
            raise ValueError(f"{_label(entry)}: lies in {name}, and the whole tensor in {there}")


def _listed_spans(body: _Body) -> Iterator[ListedSpan]:
    for name, entry in body.entries():
        group, tensor, place, *_, shape, _ = entry
        if isinstance(place, tuple):
            begin, end, whole = place
            label = _of_group(group, tensor)
            if group == MODEL_GROUP and not shape:
                raise ValueError(f"{_label(entry)}: has no shape")
            file = name if group == MODEL_GROUP else ""
            yield ListedSpan(label, begin, end, tuple(whole), tuple(shape), file)


def _check_counts(body: _Body) -> None:
    found = count_held(entry[0] for _, entry in body.entries())
    # An older release did not say it.
    if body.held and body.held != found:
        raise ValueError(f"its files hold {found} tensors and rows, it says {body.held}")


def _check_model(body: _Body) -> None:
    """The files against the list of the model's tensors.

    A family stores the model's tensors under other names, split or joined, but never more or fewer
    numbers: so these are counted. State of the optimizer goes by the names of training, and has its
    tensor's shape or is one number.
    """
    listed = body.logical
    for name, (rows, *shape) in listed.experts.items():
        # Whoever lists them all would never end.
        if rows and not math.prod(shape):
            raise ValueError(f"{name}: {rows} experts of shape {shape}, which is nothing")
    due = sum(math.prod(shape) for shape in (*listed.dense.values(), *listed.experts.values()))
    stored = 0
    for _, entry in body.entries():
        group, name, place, *_, shape, _ = entry
        own = _shape_of(listed, f"{name}[{place}]" if isinstance(place, int) else name)
        if isinstance(place, tuple):
            own = _own_of_span(entry, own, place)
        elif group == MODEL_GROUP:
            _check_stored(entry, own)
        if group == MODEL_GROUP:
            stored += math.prod(shape)
            continue
        if own is None:
            raise ValueError(f"{_label(entry)}: the model has no such tensor")
        if shape != own and math.prod(shape) != 1:
            raise ValueError(f"{_label(entry)}: has shape {shape}, its tensor {own}")
    if stored != due:
        raise ValueError(f"its files hold {stored} numbers of the model, which has {due}")


def _check_stored(entry: Entry, own: Shape | None) -> None:
    """A tensor of the model that goes by one name in training and in files. It may lie there
    transposed, and of another size it is another tensor, or a part of this one."""
    shape = entry[6]
    if own is None or math.prod(shape) != math.prod(own):
        return
    if _extents(shape) != _extents(own):
        raise ValueError(f"{_label(entry)}: has shape {shape}, its tensor {own}")


def _own_of_span(entry: Entry, own: Shape | None, span: _Span) -> Shape | None:
    """The shape of a span of the optimizer's state, whose whole must have its tensor's; of the
    model's files the whole is looked at as a tensor there is."""
    begin, end, whole = span
    if entry[0] == MODEL_GROUP:
        _check_stored((*entry[:6], whole, entry[7]), own)
    elif own is not None and own != whole:
        raise ValueError(f"{_label(entry)}: is of shape {whole}, its tensor {own}")
    return None if own is None else [end - begin]


def _extents(shape: Shape) -> Shape:
    return sorted(extent for extent in shape if extent != 1)


def _shape_of(listed: _Logical, name: str) -> Shape | None:
    """The shape of a logical tensor. Never by listing all: a text may claim any number of them."""
    expert = _EXPERT.fullmatch(name)
    if expert is None:
        return listed.dense.get(name)
    rows, *shape = listed.experts.get(expert.group(1), [0])
    return shape if int(expert.group(2)) < rows else None


def _label(entry: Entry) -> str:
    return _of_group(entry[0], _place(entry))


def _of_group(group: str, name: str) -> str:
    return name if group == MODEL_GROUP else f"{group} of {name}"


def _place(entry: Entry) -> str:
    _, name, where, *_ = entry
    if isinstance(where, tuple):
        begin, end, _ = where
        return OwnedPiece(name, begin, end).name
    return name if where is None else f"{name}[{where}]"
