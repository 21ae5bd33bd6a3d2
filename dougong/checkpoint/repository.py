"""The controller's side of checkpoints: commit, find, prune. Imports no torch.

`root` is a run's `checkpoints/`. A crash between any two system calls leaves either no checkpoint
or a whole one: everything is durable before the manifest is renamed into place, and that before the
directory is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.checkpoint.directories import (
    MANIFEST,
    MODEL,
    PENDING,
    CheckpointPlace,
    committed_directory,
    list_committed,
    list_pending,
    pending_directory,
)
from dougong.checkpoint.disk import digest, opened, storage_error, sync_directory, write_new
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, EntryKey, FileRecord, Manifest
from dougong.checkpoint.verify import VerifyResult, verify, verify_sizes
from dougong.errors import CheckpointError
from dougong.parallel.plan import Inventory

Part = dict[str, Any]
INDEX_FILE = f"{MODEL}/model.safetensors.index.json"
STATE_GROUPS = ("exp_avg", "exp_avg_sq")

__all__ = [
    "Pruned",
    "VerifyResult",
    "commit",
    "expected_tensors",
    "newest_valid",
    "prune",
    "verify",
    "verify_sizes",
]


def expected_tensors(inventory: Inventory, groups: Sequence[str] = STATE_GROUPS) -> list[list[Any]]:
    """`[group, name, shape]` of all that a checkpoint must hold, for `commit`'s
    `header["tensors"]`.

    The model group holds every tensor, `groups` those that are trained.
    """
    dense = [(t.name, list(t.shape), t.trainable) for t in inventory.tensors]
    experts = [
        (f"{site}.{param}[{e}]", list(shape), True)
        for site in inventory.sites
        for param, shape in inventory.expert_shapes
        for e in range(inventory.num_experts)
    ]
    everything = dense + experts
    found: list[list[Any]] = [[MODEL_GROUP, name, shape] for name, shape, _ in everything]
    return found + [
        [group, name, shape] for group in groups for name, shape, trained in everything if trained
    ]


def commit(
    root: Path,
    step: int,
    generation: int,
    parts: Sequence[Part],
    header: dict[str, Any],
    tokenizer: Path | None = None,
) -> Path:
    """Make one checkpoint of the parts that all workers of a generation have reported durable;
    returns its directory.

    `header` is kept in the manifest as it is (JSON), with what parts bring as their `header`, but
    for `tensors`: when given, a list of [group, name, shape] that the parts must hold. `tokenizer`
    is a file, or a folder whose files are copied into `model/`. Raises `CheckpointError` when parts
    overlap, miss something, or contradict each other or the files; nothing is committed then. Once
    this returns, the checkpoint survives a loss of power.
    """
    pending = pending_directory(root, step, generation)
    header = {
        **header,
        **{key: value for part in parts for key, value in part.get("header", {}).items()},
    }
    expected = header.pop("tensors", None)
    try:
        _check_origin(parts, step, generation, pending.name)
        files = _merge(parts)
        _check_complete(parts, files, expected)
        _check_sizes(pending, files)
        files.update(_write_small_files(pending, parts, files, tokenizer))
        keep = tuple(sorted({name for p in parts for name in p.get("keep_float32", ())}))
        manifest = Manifest(step, generation, header, files, _logical(parts), keep)
        return _publish(root, pending, manifest)
    except OSError as error:
        raise storage_error(pending, error) from error


def newest_valid(
    root: Path, on_invalid: Callable[[Path, str], None] | None = None, threads: int = 2
) -> Path | None:
    """The newest checkpoint all of whose bytes are as written; None when there is none.

    Each newer one that is not valid is passed to `on_invalid` with the reason, newest first.
    """
    for place in list_committed(root):
        result = verify(place.path, threads)
        if result.ok:
            return place.path
        if on_invalid is not None:
            on_invalid(place.path, str(result))
    return None


@dataclass(frozen=True)
class Pruned:
    """What `prune` did: kept valid ones (newest first), removed directories, invalid ones left to
    be looked at."""

    kept: tuple[Path, ...]
    removed: tuple[Path, ...]
    invalid: tuple[Path, ...]


def prune(
    root: Path, keep: int, generation: int | None = None, trusted: Collection[str] = ()
) -> Pruned:
    """Delete what is older than the newest `keep` valid checkpoints, and what ended generations
    left unfinished.

    An invalid one is not counted. When none is valid, no checkpoint is deleted. Names in `trusted`
    (those that this controller committed, read back by their writers) are checked by size alone,
    the others wholly. `generation` is the running one: older generations' unfinished directories
    go, and its own that a later commit of it has overtaken. None (nobody runs, or it is not known)
    leaves them all.
    """
    if keep < 1:
        raise CheckpointError(
            f"keep is {keep}: one checkpoint is always kept; set checkpoint.keep to 1 or more"
        )
    kept: list[Path] = []
    invalid: list[Path] = []
    old: list[Path] = []
    for place in list_committed(root):
        if len(kept) == keep:
            old.append(place.path)
        elif (verify_sizes(place.path) if place.path.name in trusted else verify(place.path)).ok:
            kept.append(place.path)
        else:
            invalid.append(place.path)
    stale = [
        p.path
        for p in list_pending(root)
        if generation is not None and _is_stale(p, generation, kept)
    ]
    for path in old + stale:
        _delete(root, path)
    _empty_trash(root)
    return Pruned(tuple(kept), tuple(old + stale), tuple(invalid))


def _is_stale(place: CheckpointPlace, generation: int, kept: Iterable[Path]) -> bool:
    if place.generation != generation:
        return place.generation < generation
    newest = max(
        (m.step for m in map(Manifest.load, kept) if m.generation == generation), default=0
    )
    return place.step < newest


def _delete(root: Path, path: Path) -> None:
    """Renamed first: half a deletion must not look like a checkpoint."""
    trash = root / PENDING / f"trash-{path.name}-{path.parent.name}"
    trash.parent.mkdir(exist_ok=True)
    try:
        if trash.exists():
            shutil.rmtree(trash)
        path.rename(trash)
        sync_directory(path.parent)
        shutil.rmtree(trash)
    except OSError as error:
        raise storage_error(path, error) from error


def _empty_trash(root: Path) -> None:
    for path in (root / PENDING).glob("trash-*"):
        shutil.rmtree(path)


def _check_origin(parts: Sequence[Part], step: int, generation: int, directory: str) -> None:
    if not parts:
        raise CheckpointError(
            f"step {step}: no part to commit; every worker of the generation sends one"
        )
    for part in parts:
        actual = (part["step"], part["generation"], part["directory"])
        if actual != (step, generation, directory):
            raise CheckpointError(
                f"step {step}, generation {generation}: worker {part['worker']} sent a part of step {actual[0]}, "
                f"generation {actual[1]} ({actual[2]}); only parts of one step and generation make a checkpoint"
            )
    workers = [p["worker"] for p in parts]
    twice = sorted({w for w in workers if workers.count(w) > 1})
    if twice:
        raise CheckpointError(
            f"step {step}: {', '.join(twice)} sent more than one part; each worker sends one"
        )


def _merge(parts: Sequence[Part]) -> dict[str, FileRecord]:
    """One record a file; several workers may have written one file between them."""
    files: dict[str, FileRecord] = {}
    for part in parts:
        for name, raw in part["files"].items():
            new = FileRecord.from_dict(raw)
            files[name] = _join(name, files[name], new) if name in files else new
    owner: dict[EntryKey, str] = {}
    for name, record in files.items():
        gap = record.gap()
        if gap is not None:
            raise CheckpointError(f"{name}: {gap}; the workers' parts do not make a whole file")
        for entry in record.entries:
            if entry.key in owner:
                raise CheckpointError(
                    f"{entry.label}: written to {owner[entry.key]} and to {name}; a tensor has one owner"
                )
            owner[entry.key] = name
    return files


def _join(name: str, a: FileRecord, b: FileRecord) -> FileRecord:
    if a.num_bytes != b.num_bytes:
        raise CheckpointError(
            f"{name}: workers disagree on its size, {a.num_bytes} and {b.num_bytes} bytes"
        )
    if a.header is not None and b.header is not None:
        raise CheckpointError(f"{name}: two workers wrote its header; the tensors' rows overlap")
    return FileRecord(a.num_bytes, None, a.header or b.header, a.entries + b.entries)


def _logical(parts: Sequence[Part]) -> dict[str, Any]:
    described: list[dict[str, Any]] = [p["logical"] for p in parts if p.get("logical")]
    if any(d != described[0] for d in described):
        raise CheckpointError(
            "workers disagree on the model's tensors; they did not build the same model"
        )
    return described[0] if described else {}


def _check_complete(
    parts: Sequence[Part], files: dict[str, FileRecord], expected: list[list[Any]] | None
) -> None:
    held = {(group, name): list(shape) for part in parts for group, name, shape in part["state"]}
    if sum(len(part["state"]) for part in parts) != len(held):
        raise CheckpointError(
            "two workers wrote the same tensor; every tensor has one owner, see plan.json"
        )
    wanted = [(MODEL_GROUP, name, shape) for name, shape in _model_tensors(_logical(parts))]
    wanted += [(group, name, list(shape)) for group, name, shape in expected or ()]
    missing = [(group, name) for group, name, _ in wanted if (group, name) not in held]
    if missing:
        group, name = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{group} {name}: no worker wrote it{more}; every tensor has an owner, see plan.json"
        )
    for group, name, shape in wanted:
        if held[(group, name)] != shape:
            raise CheckpointError(
                f"{group} {name}: written as {held[(group, name)]}, expected shape {shape}"
            )


def _model_tensors(logical: dict[str, Any]) -> list[tuple[str, list[int]]]:
    dense = [(name, list(shape)) for name, shape in logical.get("dense", {}).items()]
    experts = logical.get("experts", {}).items()
    return dense + [
        (f"{name}[{e}]", list(shape)) for name, (rows, *shape) in experts for e in range(rows)
    ]


def _check_sizes(pending: Path, files: dict[str, FileRecord]) -> None:
    for name, record in files.items():
        with opened(pending / name) as fd:
            actual = os.fstat(fd).st_size
        if actual != record.num_bytes:
            raise CheckpointError(
                f"{pending / name}: {actual} bytes, its writers reported {record.num_bytes}; is the run directory on "
                "storage that all nodes share?"
            )


def _write_small_files(
    pending: Path, parts: Sequence[Part], files: dict[str, FileRecord], tokenizer: Path | None
) -> dict[str, FileRecord]:
    texts: dict[str, bytes] = {}
    for part in parts:
        for name, text in part.get("model_files", {}).items():
            texts[f"{MODEL}/{name}"] = str(text).encode()
    texts[INDEX_FILE] = _index(files)
    texts.update(
        {f"{MODEL}/{path.name}": path.read_bytes() for path in _tokenizer_files(tokenizer)}
    )
    (pending / MODEL).mkdir(exist_ok=True)
    for name, data in texts.items():
        write_new(pending / name, data)
    return {name: FileRecord(len(data), digest(data)) for name, data in texts.items()}


def _tokenizer_files(tokenizer: Path | None) -> list[Path]:
    if tokenizer is None:
        return []
    if tokenizer.is_file():
        return [tokenizer]
    patterns = (
        "tokenizer*",
        "special_tokens_map.json",
        "vocab*",
        "merges.txt",
        "added_tokens.json",
        "*.jinja",
    )
    return sorted({p for pattern in patterns for p in tokenizer.glob(pattern) if p.is_file()})


def _index(files: dict[str, FileRecord]) -> bytes:
    """Hugging Face's index of a model in several files."""
    entries: list[tuple[str, Entry]] = [
        (file, e)
        for file, record in files.items()
        for e in record.entries
        if e.group == MODEL_GROUP
    ]
    weight_map = {e.name: file.removeprefix(f"{MODEL}/") for file, e in entries}
    index = {
        "metadata": {"total_size": sum(e.num_bytes for _, e in entries)},
        "weight_map": weight_map,
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _publish(root: Path, pending: Path, manifest: Manifest) -> Path:
    target = committed_directory(root, manifest.step, manifest.generation)
    if target.exists():
        raise CheckpointError(
            f"{target}: exists already; one step of one generation is never written twice"
        )
    unfinished = pending / f".{MANIFEST}"
    unfinished.unlink(missing_ok=True)
    write_new(unfinished, manifest.to_bytes())
    for folder in (p for p in pending.rglob("*") if p.is_dir()):
        sync_directory(folder)
    unfinished.rename(pending / MANIFEST)
    sync_directory(pending)
    pending.rename(target)
    sync_directory(root)
    sync_directory(root / PENDING)
    return target
