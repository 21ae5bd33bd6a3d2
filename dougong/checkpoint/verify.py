"""Is a directory the checkpoint that was written? Imports no torch.

Every byte of every file is hashed, every number of a tensor must be finite, a file's own header
must say what the manifest says, no file may lie in `model/` that the manifest does not name, and
nothing that is read may be a link: it leads out of what was proved, to what others can change.
Why that is all: the manifest's own digest covers its text, its text names every file and the digest
of every byte of it (`FileRecord.gap`), and nothing of a checkpoint is kept elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from dougong.checkpoint.directories import MANIFEST, MODEL, step_of
from dougong.checkpoint.disk import digest, digest_range, is_refused, opened, read_into
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, FileRecord, Manifest
from dougong.checkpoint.proof.header import PlacedTensor, TensorClaim, compare_header
from dougong.checkpoint.proof.signing import KeyStanding, SignatureError, SigningKey
from dougong.checkpoint.tensorfile import FiniteCount, not_finite_words
from dougong.errors import CheckpointError, ManifestError


@dataclass(frozen=True)
class Defect:
    """One thing that is not as it was written.

    `tensor` is empty where a whole file or its header is meant, `expected` where `rule` says all.
    `is_unread`: storage has refused to give it, so that nothing is known of it.
    `is_of_signature`: who has signed it, which says nothing of its bytes.
    """

    file: str
    tensor: str
    rule: str
    expected: str
    actual: str
    is_unread: bool = False
    is_of_signature: bool = False

    def __str__(self) -> str:
        place = f"{self.file}: {self.tensor}" if self.tensor else self.file
        if not self.expected:
            return f"{place}: {self.rule}"
        return f"{place}: {self.rule}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found. `problems` is empty exactly when the checkpoint may be used.
    `signed_by`: the key that the manifest names; whether that is true is known where a key was
    given, and is `standing` then: None of a manifest that is damaged. `remarks`: what lies there
    and is no checkpoint's."""

    directory: Path
    step: int | None
    num_files: int
    num_tensors: int
    num_bytes: int
    problems: tuple[Defect, ...]
    signed_by: str = ""
    standing: KeyStanding | None = None
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def is_unread(self) -> bool:
        """Whether storage has refused to give it: it may be valid."""
        return any(problem.is_unread for problem in self.problems)

    @property
    def is_whole(self) -> bool:
        """Whether nothing but its signature is wrong, of what was read: see `verify`."""
        return all(problem.is_of_signature for problem in self.problems)

    def __str__(self) -> str:
        if self.ok:
            size = f"{self.num_bytes / 1e6:.1f} MB"
            counts = f"{self.num_files} files, {self.num_tensors} tensors, {size}"
            return f"{self.directory}: step {self.step}: {counts}: ok"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{self.directory}: not valid: {self.problems[0]}{more}"


def verify(directory: Path, threads: int = 2, key: SigningKey | None = None) -> VerifyResult:
    """Hash everything and compare. Never raises for a damaged checkpoint: the result says what is
    wrong. With a `key`, one that is not signed by it is not valid, and no more of it is read."""
    return _verify(directory, _check_bytes, threads, key)


def verify_whoever_signed(directory: Path, key: SigningKey | None) -> VerifyResult:
    """As `verify`, for a person: one that the key has not signed is read whole, too, so that its
    damage is told beside that."""
    found = verify(directory, key=key)
    if found.standing in (None, KeyStanding.SIGNED):
        return found
    bare = verify(directory)
    problems = (*found.problems, *bare.problems)
    return replace(bare, problems=problems, standing=found.standing)


def verify_sizes(directory: Path, key: SigningKey | None = None) -> VerifyResult:
    """The cheap check: the manifest's own digest, and every file there with its size. Reads no
    tensor."""
    return _verify(directory, lambda path, name, record: [], 1, key)


_Check = Callable[[Path, str, FileRecord], list[Defect]]


def _verify(directory: Path, check: _Check, threads: int, key: SigningKey | None) -> VerifyResult:
    try:
        manifest = Manifest.load(directory, key)
    except ManifestError as error:
        standing = error.standing if isinstance(error, SignatureError) else None
        is_of_signature = standing is not None
        defect = Defect(MANIFEST, "", error.reason, "", "", is_refused(error), is_of_signature)
        return VerifyResult(directory, step_of(directory), 0, 0, 0, (defect,), standing=standing)

    # A thread waits for storage most of its time, and hashing gives the interpreter lock away.
    found = _check_files(directory, manifest, check, threads)
    linked, others = _strangers(directory, manifest)
    found += linked
    return VerifyResult(
        directory=directory,
        step=manifest.step,
        num_files=len(manifest.files),
        num_tensors=sum(len(record.entries) for record in manifest.files.values()),
        num_bytes=manifest.num_bytes,
        problems=tuple(found),
        signed_by=manifest.signed_by,
        standing=None if key is None else KeyStanding.SIGNED,
        remarks=others,
    )


def _check_files(directory: Path, manifest: Manifest, check: _Check, threads: int) -> list[Defect]:
    examine = partial(_examine, directory, check)
    found: list[Defect] = []
    if threads == 1:
        for item in manifest.files.items():
            found += examine(item)
        return found
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for defects in pool.map(examine, manifest.files.items()):
            found += defects
    return found


def _examine(directory: Path, check: _Check, item: tuple[str, FileRecord]) -> list[Defect]:
    """One file: its size, and where that is right, what `check` says."""
    name, record = item
    try:
        found = _check_size(directory / name, name, record)
        return found or check(directory / name, name, record)
    except (OSError, CheckpointError) as error:
        size, is_unread = f"{record.num_bytes} bytes", is_refused(error)
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return [Defect(name, "", "readable", size, why, is_unread)]


def _check_size(path: Path, name: str, record: FileRecord) -> list[Defect]:
    try:
        with opened(path) as fd:
            actual = os.fstat(fd).st_size
    except FileNotFoundError:
        return [Defect(name, "", "present", f"{record.num_bytes} bytes", "no such file")]
    if actual == record.num_bytes:
        return []
    return [Defect(name, "", "size in bytes", str(record.num_bytes), str(actual))]


def _check_bytes(path: Path, name: str, record: FileRecord) -> list[Defect]:
    with opened(path) as fd:
        if record.digest is not None:
            actual = digest_range(fd, 0, record.num_bytes)
            return _compare(name, "", "digest", record.digest, actual)
        found = []
        if record.header is not None:
            found += _check_header(fd, name, record.header, record.entries)
        for entry in record.entries:
            finite = FiniteCount(entry.dtype)
            actual = digest_range(fd, entry.offset, entry.num_bytes, finite.see)
            changed = _compare(name, entry.label, "digest", entry.digest, actual)
            found += changed or _check_finite(name, entry.label, finite.num_not_finite)
        return found


def _check_header(
    fd: int, name: str, header: tuple[int, str], entries: tuple[Entry, ...]
) -> list[Defect]:
    num_bytes, expected = header
    data = bytearray(num_bytes)
    read_into(fd, memoryview(data), 0)
    changed = _compare(name, "", "header's digest", expected, digest(data))
    if changed:
        return changed
    found = compare_header(bytes(data), map(_claim, entries))
    return [Defect(name, one.label, one.rule, one.expected, one.actual) for one in found]


def _claim(entry: Entry) -> TensorClaim:
    place = PlacedTensor(entry.dtype, entry.shape, entry.offset, entry.num_bytes)
    # The pieces of an optimizer's tensors are tensors of their own in the files of their owners.
    claim = TensorClaim(entry.label, entry.name_in_file, entry.row, place)
    if entry.span is None or entry.group != MODEL_GROUP:
        return claim
    return replace(claim, begin=entry.span.begin, whole=entry.span.shape)


def _check_finite(file: str, tensor: str, count: int) -> list[Defect]:
    """It is what was written, but nothing can go on from it."""
    if not count:
        return []
    return [Defect(file, tensor, "finite", "no NaN and no infinity", not_finite_words(count))]


def _compare(file: str, tensor: str, rule: str, expected: str, actual: str) -> list[Defect]:
    if expected == actual:
        return []
    return [Defect(file, tensor, rule, expected, actual)]


def _strangers(directory: Path, manifest: Manifest) -> tuple[list[Defect], tuple[str, ...]]:
    """What is there beside the manifest's files: what must not be, and remarks.

    A file in model/ that nobody wrote could be loaded in place of ours (model.safetensors wins over
    the index). Elsewhere nobody reads it.
    """
    own = {MANIFEST, MODEL, *manifest.files}
    for name in manifest.files:
        own.update(folder.as_posix() for folder in PurePosixPath(name).parents)
    found, remarks = [], []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        is_read = name in own or name.startswith(f"{MODEL}/")
        if path.is_symlink() and is_read:
            target = f"a link to {os.readlink(path)}"
            found.append(Defect(name, "", "no link", "what was written, in its place", target))
        elif name in own or (path.is_dir() and not path.is_symlink()):
            continue
        elif is_read:
            rule = "only files of the manifest in model/"
            found.append(Defect(name, "", rule, "no such file", "a file"))
        else:
            remarks.append(f"holds {name}, which is no checkpoint's: nobody reads it")
    return found, tuple(remarks)


def read_back(
    path: Path, fd: int, entries: tuple[Entry, ...], header: tuple[int, str] | None
) -> None:
    """Compare what storage gives back of a file that was just written with what was in memory.
    CheckpointError where they differ."""
    if header is not None:
        num_bytes, written = header
        if digest_range(fd, 0, num_bytes) != written:
            raise CheckpointError(
                f"{path}: its header reads back differently from what was written; "
                "the storage is bad"
            )
    for entry in entries:
        actual = digest_range(fd, entry.offset, entry.num_bytes)
        if actual != entry.digest:
            raise CheckpointError(
                f"{path}: {entry.label}: reads back as {actual}, written as {entry.digest}; "
                "the storage is bad"
            )
