"""The manifest: the one file that makes a directory a checkpoint.

It names every file, tensor and digest, and carries its own digest. Imports no torch. On disk:

    {"format": "dougong.checkpoint/1" (or 2), "digest": of the body's canonical JSON,
     "signature": {"key", "hmac-sha256"} of the same (where the job signs), "body": {
        "step", "generation", "fence" (where it is known), "header": {...},
        "files": {"model/config.json": {"bytes", "digest"},
                  "model/model-rank00000.safetensors": {"bytes", "header": [bytes, digest],
                      "tensors": [[group, name, place, offset, bytes, dtype, shape, digest], ...]}},
        "logical": {"dense": {name: shape}, "experts": {"site.param": [rows, *shape]}},
        "keep_float32": [tensor names], "held": {group: number of its entries}}}

A "place" is null for a whole tensor, the number of a row, or [begin, end, shape of the whole] of a
span of elements. The body's "header" is `Manifest.metadata`, a file's "header" is that of the
safetensors format, and "logical" is `Manifest.tensors`: the keys on disk stay so that older
checkpoints open. Those of older releases have no "held".

The digest says that the text is as it was written, `proof.sense` that what was written makes sense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.checkpoint.directories import MANIFEST, generation_of, step_of
from dougong.checkpoint.disk import MOST_SMALL_BYTES, digest, read_file
from dougong.checkpoint.proof.sense import MODEL_GROUP as MODEL_GROUP
from dougong.checkpoint.proof.sense import check_sense
from dougong.checkpoint.proof.signing import SCHEME, Signature, SigningKey
from dougong.checkpoint.tensorfile import ITEM_BYTES, TensorSpan
from dougong.errors import CheckpointError, ManifestError
from dougong.parallel.pieces import OwnedPiece

_OF_ITS_TEXT = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What Python raises of a text that is not as ours are."""
FORMAT = "dougong.checkpoint/1"
FORMAT_OF_SPANS = "dougong.checkpoint/2"
"""Of one that holds spans of tensors, which older releases do not read: it says so to them."""
IMPORTED = "imported"
"""The key of the metadata that says that the state is another program's, and whose."""

EntryKey = tuple[str, str, int | tuple[int, int] | None]
"""(group, name, row or span's ends)."""


def name_in_file(group: str, name: str) -> str:
    """By which a file's own header knows a tensor of the state."""
    return name if group == MODEL_GROUP else f"{group}/{name}"


@dataclass(frozen=True)
class Entry:
    """Where one tensor's bytes lie in a file.

    `row`: one expert's row of a tensor `[E, ...]`; `shape` is then the row's. `span`: elements of a
    tensor that several workers own; `shape` is theirs, flat, or that of a number which belongs to
    them. `dtype` is safetensors' word (`F32`).
    """

    group: str
    name: str
    row: int | None
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    digest: str
    span: TensorSpan | None = None

    @property
    def key(self) -> EntryKey:
        if self.span is not None:
            return (self.group, self.name, (self.span.begin, self.span.end))
        return (self.group, self.name, self.row)

    @property
    def label(self) -> str:
        """The tensor as messages name it."""
        name = self._owned if self.row is None else f"{self.name}[{self.row}]"
        return name if self.group == MODEL_GROUP else f"{self.group} of {name}"

    @property
    def name_in_file(self) -> str:
        """By which the file's own header knows the tensor, or that of which this is a row, or, of
        the model, a span."""
        is_of_model = self.group == MODEL_GROUP
        return name_in_file(self.group, self.name if is_of_model else self._owned)

    @property
    def _owned(self) -> str:
        if self.span is None:
            return self.name
        return OwnedPiece(self.name, self.span.begin, self.span.end).name

    def to_json(self) -> list[Any]:
        place: Any = self.row
        if self.span is not None:
            place = [self.span.begin, self.span.end, list(self.span.shape)]
        where = [self.group, self.name, place, self.offset, self.num_bytes]
        return [*where, self.dtype, list(self.shape), self.digest]

    @staticmethod
    def from_json(raw: list[Any]) -> Entry:
        group, name, place, offset, num_bytes, dtype, shape, checksum = raw
        row, span = place, None
        if isinstance(place, list):
            if len(place) != 3 or not isinstance(place[2], list):
                raise ValueError(f"{name}: a piece is [begin, end, whole shape]; it is {place}")
            row, span = None, TensorSpan(place[0], place[1], tuple(place[2]))
        return Entry(group, name, row, offset, num_bytes, dtype, tuple(shape), checksum, span)


@dataclass(frozen=True)
class FileRecord:
    """One file, of one of two kinds.

    A plain file has a `digest` of all its bytes. A safetensors file has a `header` (its size in
    bytes and its digest; None while only a part of the file is known) and one entry for each
    tensor, row or span.
    """

    num_bytes: int
    digest: str | None = None
    header: tuple[int, str] | None = None
    entries: tuple[Entry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        if self.digest is not None:
            return {"bytes": self.num_bytes, "digest": self.digest}
        header = None if self.header is None else list(self.header)
        tensors = [entry.to_json() for entry in self.entries]
        return {"bytes": self.num_bytes, "header": header, "tensors": tensors}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> FileRecord:
        if "digest" in raw:
            return FileRecord(raw["bytes"], raw["digest"])
        header = None
        if raw["header"] is not None:
            num_bytes, checksum = raw["header"]
            header = (int(num_bytes), str(checksum))
        entries = tuple(Entry.from_json(entry) for entry in raw["tensors"])
        return FileRecord(raw["bytes"], None, header, entries)

    def gap(self) -> str | None:
        """What keeps header and entries from covering the file exactly once; None when they do.

        Entries are walked in the order of their offsets: each must begin where the one before it
        ended. So a byte that two wrote, or that nobody wrote, is found without reading any.
        """
        if self.digest is not None:
            return None
        if self.header is None:
            return "nobody wrote its header"
        end = self.header[0]
        for entry in sorted(self.entries, key=lambda e: (e.offset, e.num_bytes)):
            if entry.offset > end:
                return f"bytes {end} to {entry.offset} belong to nobody (before {entry.label})"
            if entry.offset < end:
                return f"bytes {entry.offset} to {end} are written twice (before {entry.label})"
            end += entry.num_bytes
        if end != self.num_bytes:
            return f"its tensors end at byte {end}, the file at {self.num_bytes}"
        return None


@dataclass(frozen=True)
class ModelTensors:
    """All logical tensors of a model, in brief.

    `dense`: name to shape. `experts`: `site.parameter` to (rows, *shape of one row); each row is a
    logical tensor of its own, `site.parameter[e]`.
    """

    dense: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def logical(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of every logical tensor, experts one by one."""
        yield from self.dense.items()
        for name, (rows, *shape) in self.experts.items():
            for expert in range(rows):
                yield f"{name}[{expert}]", tuple(shape)

    def to_json(self) -> dict[str, Any]:
        return {"dense": _lists(self.dense), "experts": _lists(self.experts)}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> ModelTensors:
        return ModelTensors(_tuples(raw.get("dense", {})), _tuples(raw.get("experts", {})))


def _lists(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}


def _tuples(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's contents.

    `metadata` is what the controller says of the run: the job's identity, the plan, the place in
    the data, the seed, the parent checkpoint; and the ledger's digest, where a worker sent it.
    `fence`: the number of the controller that committed it; 0: not known. `held`: how many entries
    each group has (`sense.count_held`); empty: not known. `signed_by`: the name of the key that it
    says it is signed with; empty: it is not.
    """

    step: int
    generation: int
    metadata: dict[str, Any]
    files: dict[str, FileRecord]
    tensors: ModelTensors = field(default_factory=ModelTensors)
    keep_float32: tuple[str, ...] = ()
    fence: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    signed_by: str = field(default="", compare=False)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """(file, entry) of every tensor and row."""
        for file, record in self.files.items():
            for entry in record.entries:
                yield file, entry

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.files.values())

    @property
    def has_spans(self) -> bool:
        """Whether it holds pieces of tensors."""
        return any(entry.span is not None for _, entry in self.entries())

    def to_bytes(self, key: SigningKey | None = None) -> bytes:
        """The text of `manifest.json`, signed where there is a `key`."""
        body: dict[str, Any] = {
            "step": self.step,
            "generation": self.generation,
            "header": self.metadata,
            "files": {name: record.to_json() for name, record in sorted(self.files.items())},
            "logical": self.tensors.to_json(),
            "keep_float32": list(self.keep_float32),
        }
        if self.fence:
            body["fence"] = self.fence
        if self.held:
            body["held"] = dict(self.held)
        text = _canonical(body)
        signed = "" if key is None else _signature_text(key.sign(text.encode()))
        kind = FORMAT_OF_SPANS if self.has_spans else FORMAT
        head = f'{{"format":"{kind}",\n"digest":"{digest(text.encode())}",\n{signed}'
        return f'{head}"body":{text}}}\n'.encode()

    @staticmethod
    def load(directory: Path, key: SigningKey | None = None) -> Manifest:
        """The manifest of a directory, checked against its own digest, itself and the directory's
        name; with a `key`, its signature too. Raises `CheckpointError`."""
        path = directory / MANIFEST
        try:
            data = read_file(path)
        except FileNotFoundError as error:
            reason = f"missing; {directory.name} was never committed as a checkpoint"
            raise ManifestError(f"{path}: {reason}", reason) from error
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            raise ManifestError(f"{path}: {reason}", reason) from error
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ManifestError(str(error), reason) from error
        manifest = Manifest.from_bytes(data, path, key)
        try:
            _check_name(manifest, directory)
        except ValueError as error:
            raise _damaged(path, error) from error
        return manifest

    @staticmethod
    def from_bytes(data: bytes, path: Path, key: SigningKey | None = None) -> Manifest:
        """The manifest of a text that lies at `path`, checked as `load` says, but for the
        directory's name. Raises `CheckpointError`."""
        try:
            if len(data) > MOST_SMALL_BYTES:
                raise ValueError(f"it has {len(data)} bytes, and may have {MOST_SMALL_BYTES}")
            document = json.loads(data)
            body = _checked_body(document)
            signature = _signature_in(document)
            if key is not None:
                key.check(_canonical(body).encode(), signature, path)
            manifest = _parse(body, signature)
            if manifest.has_spans and document["format"] != FORMAT_OF_SPANS:
                raise ValueError(
                    f"format {document['format']!r}, with pieces of tensors, which "
                    f"{FORMAT_OF_SPANS!r} has alone"
                )
            return manifest
        except _OF_ITS_TEXT as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ManifestError:
    return ManifestError(f"{path}: damaged: {error}; use another checkpoint", f"damaged: {error}")


def _signature_text(signature: Signature) -> str:
    return f'"signature":{{"key":"{signature.key}","{SCHEME}":"{signature.code}"}},\n'


def _signature_in(document: Mapping[str, Any]) -> Signature | None:
    raw = document.get("signature")
    return None if raw is None else Signature(str(raw["key"]), str(raw[SCHEME]))


def _parse(body: Mapping[str, Any], signature: Signature | None) -> Manifest:
    files = {name: FileRecord.from_json(raw) for name, raw in body["files"].items()}
    for name, record in files.items():
        gap = record.gap()
        if gap is not None:
            raise ValueError(f"{name}: {gap}")
    check_sense(body, ITEM_BYTES)
    return Manifest(
        step=body["step"],
        generation=body["generation"],
        metadata=body["header"],
        files=files,
        tensors=ModelTensors.from_json(body["logical"]),
        keep_float32=tuple(body["keep_float32"]),
        fence=body.get("fence", 0),
        held=body.get("held", {}),
        signed_by="" if signature is None else signature.key,
    )


def _checked_body(document: dict[str, Any]) -> dict[str, Any]:
    if document["format"] not in (FORMAT, FORMAT_OF_SPANS):
        known = f"{FORMAT!r} and {FORMAT_OF_SPANS!r}"
        raise ValueError(f"format {document['format']!r}, this dougong reads {known}")
    body: dict[str, Any] = document["body"]
    # Of the values, not of the text: canonical JSON has one text for them, whoever wrote it.
    actual = digest(_canonical(body).encode())
    if actual != document["digest"]:
        raise ValueError(f"its digest is {actual}, it says {document['digest']}")
    return body


def _check_name(manifest: Manifest, directory: Path) -> None:
    """A checkpoint that was moved to another's name is not what is looked for there."""
    step, generation = step_of(directory), generation_of(directory)
    if step is not None and step != manifest.step:
        raise ValueError(f"its step is {manifest.step}, the directory's name says {step}")
    if generation and generation != manifest.generation:
        said = manifest.generation
        raise ValueError(f"its generation is {said}, the directory's name says {generation}")


def _canonical(body: dict[str, Any]) -> str:
    return json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
