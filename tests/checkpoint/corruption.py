"""Kinds of corruption of stored checkpoints: what a disk, a file system, a copying script or a person can do to them.

A kind is a function over a small repository, with a random number generator that alone decides what it does. Those in
`KINDS` need no key to be found; `TOLERATED` change nothing that is ever read. What only a signature finds is in
`forgery`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dougong.checkpoint.directories import MANIFEST
from dougong.checkpoint.manifest import Manifest
from tests.checkpoint.edits import (
    dtype_edited,
    file_left_out,
    generation_edited,
    hostile_name,
    named_twice,
    other_step,
    rewrite,
    seed_edited,
    shape_edited,
    shape_turned,
    tensor_listed,
    tensor_renamed,
)
from tests.checkpoint.saving import make_not_finite

PAGE = 4096


@dataclass(frozen=True)
class Scene:
    """A repository of checkpoints, the one that is damaged, and another one.

    `manifest`: the name of the file that describes a checkpoint; `unfinished`: a directory of a save that never ended.
    """

    root: Path
    victim: Path
    other: Path
    chance: Random
    manifest: str = MANIFEST
    unfinished: Path | None = None

    def files(self) -> list[Path]:
        """Those of the victim, but for the one that describes it."""
        found = sorted(path for path in self.victim.rglob("*") if path.is_file())
        return [path for path in found if path.name != self.manifest]

    def file(self) -> Path:
        """One of them, with bytes in it."""
        return self.chance.choice([path for path in self.files() if path.stat().st_size])

    def twin(self, path: Path) -> Path:
        """The same file of the other checkpoint."""
        return self.other / path.relative_to(self.victim)

    def manifest_file(self) -> Path:
        return self.victim / self.manifest


Kind = Callable[[Scene], None]


def flip(path: Path, chance: Random, bits: int = 1) -> None:
    """Some bits of a file are others."""
    data = bytearray(path.read_bytes())
    for bit in chance.sample(range(8 * len(data)), bits):
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def page_of(path: Path, chance: Random) -> tuple[int, int]:
    """(offset, bytes) of a page of a file."""
    size = path.stat().st_size
    offset = chance.randrange((size + PAGE - 1) // PAGE) * PAGE
    return offset, min(PAGE, size - offset)


def one_bit(scene: Scene) -> None:
    flip(scene.file(), scene.chance)


def some_bits(scene: Scene) -> None:
    flip(scene.file(), scene.chance, scene.chance.randint(2, 9))


def zeroed_page(scene: Scene) -> None:
    path = scene.file()
    offset, size = page_of(path, scene.chance)
    overwrite(path, offset, bytes(size))


def random_block(scene: Scene) -> None:
    path = scene.file()
    size = scene.chance.randint(1, min(2 * PAGE, path.stat().st_size))
    offset = scene.chance.randint(0, path.stat().st_size - size)
    overwrite(path, offset, scene.chance.randbytes(size))


def lost_write(scene: Scene) -> None:
    """A page is that of the other checkpoint: it was never written."""
    path = scene.file()
    offset, size = page_of(path, scene.chance)
    overwrite(path, offset, scene.twin(path).read_bytes()[offset : offset + size])


def misdirected_write(scene: Scene) -> None:
    """A page lies where another one belongs."""
    path = scene.file()
    source, size = page_of(path, scene.chance)
    target, room = page_of(path, scene.chance)
    overwrite(path, target, path.read_bytes()[source : source + min(size, room)])


def shifted(scene: Scene) -> None:
    """A byte too many in the middle, and one too few at the end."""
    path = scene.file()
    data, at = path.read_bytes(), scene.chance.randrange(path.stat().st_size)
    path.write_bytes((data[:at] + scene.chance.randbytes(1) + data[at:])[: len(data)])


def truncated(scene: Scene) -> None:
    path = scene.file()
    os.truncate(path, scene.chance.randrange(path.stat().st_size))


def extended(scene: Scene) -> None:
    with scene.file().open("ab") as file:
        file.write(scene.chance.randbytes(scene.chance.randint(1, PAGE)))


def deleted(scene: Scene) -> None:
    scene.file().unlink()


def file_of_another(scene: Scene) -> None:
    path = scene.file()
    data, others = path.read_bytes(), scene.twin(path).read_bytes()
    path.write_bytes(others)
    scene.twin(path).write_bytes(data)


def folder_of_another(scene: Scene) -> None:
    folder = scene.file().parent
    aside = scene.root / "between"
    folder.rename(aside)
    scene.twin(folder).rename(folder)
    aside.rename(scene.twin(folder))


def hard_link(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    path.hardlink_to(scene.twin(path))


def link_to_file(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    path.symlink_to(scene.chance.choice([scene.twin(path), Path("nowhere"), path]))


def link_to_folder(scene: Scene) -> None:
    folder = scene.file().parent
    shutil.rmtree(folder)
    folder.symlink_to(scene.chance.choice([scene.twin(folder), Path("nowhere"), folder]))


def link_to_checkpoint(scene: Scene) -> None:
    shutil.rmtree(scene.victim)
    scene.victim.symlink_to(scene.chance.choice([scene.other, Path("nowhere"), scene.victim]))


def exchanged_tensors(scene: Scene) -> None:
    """Two stretches of one file, of one size, have changed places."""
    path = scene.chance.choice([p for p in scene.files() if p.stat().st_size > 16 * 64])
    data = path.read_bytes()
    size = scene.chance.randint(1, len(data) // 4 // 64) * 64
    first = scene.chance.randint(0, len(data) - 2 * size)
    second = scene.chance.randint(first + size, len(data) - size)
    overwrite(path, first, data[second : second + size])
    overwrite(path, second, data[first : first + size])


def edited_header(scene: Scene) -> None:
    """The header of a safetensors file says something else, in as many bytes."""
    path = scene.chance.choice([p for p in scene.files() if p.suffix == ".safetensors"])
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    old, new = scene.chance.choice([(b"F32", b"I32"), (b"weight", b"height"), (b"[0,", b"[4,"), (b"1", b"2")])
    overwrite(path, 0, data[:size].replace(old, new, 1))


def flipped_manifest(scene: Scene) -> None:
    flip(scene.manifest_file(), scene.chance, scene.chance.randint(1, 3))


def truncated_manifest(scene: Scene) -> None:
    size = scene.manifest_file().stat().st_size
    os.truncate(scene.manifest_file(), scene.chance.choice([0, 1, scene.chance.randrange(size - 1)]))


def zeroed_manifest(scene: Scene) -> None:
    path = scene.manifest_file()
    offset, size = page_of(path, scene.chance)
    overwrite(path, offset, bytes(size))


def manifest_of_another(scene: Scene) -> None:
    shutil.copy(scene.other / scene.manifest, scene.manifest_file())


def deleted_manifest(scene: Scene) -> None:
    scene.manifest_file().unlink()


def edited_manifest(scene: Scene) -> None:
    """By an editor, which computes no digest."""
    document = json.loads(scene.manifest_file().read_bytes())
    body = document["body"]
    scene.chance.choice([seed_edited, generation_edited, file_left_out, other_step])(body, scene.chance)
    scene.manifest_file().write_text(json.dumps(document))


def renamed(scene: Scene) -> None:
    scene.victim.rename(scene.root / f"step-{scene.chance.choice([10, 50, 80]):06d}")


def old_as_new(scene: Scene) -> None:
    shutil.copytree(scene.other, scene.root / f"step-{scene.chance.choice([50, 80]):06d}")


def other_generation(scene: Scene) -> None:
    scene.victim.rename(scene.root / f"{scene.victim.name}.g{scene.chance.randint(2, 9)}")


def unfinished_promoted(scene: Scene) -> None:
    assert scene.unfinished is not None
    scene.unfinished.rename(scene.root / f"step-{scene.chance.choice([50, 80]):06d}")


def stranger(scene: Scene) -> None:
    """A file that would be loaded in place of ours."""
    shutil.copy(scene.file(), scene.victim / "model" / scene.chance.choice(["model.safetensors", "modeling.py"]))


def folder_for_file(scene: Scene) -> None:
    path = scene.chance.choice([scene.file(), scene.manifest_file()])
    path.unlink()
    path.mkdir()


def pipe(scene: Scene) -> None:
    """Who opens it waits for somebody who writes."""
    path = scene.chance.choice([scene.file(), scene.manifest_file()])
    path.unlink()
    os.mkfifo(path)


def device(scene: Scene) -> None:
    """Zeros without end, or nothing: a node of a device where that may be made, else a link to one."""
    path = scene.chance.choice([scene.file(), scene.manifest_file()])
    path.unlink()
    name, minor = scene.chance.choice([("/dev/zero", 5), ("/dev/null", 3)])
    if os.geteuid() or scene.chance.random() < 0.5:
        path.symlink_to(name)
    else:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))


def endpoint(scene: Scene) -> None:
    path = scene.file()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        # A name of a socket is short, a path of a test is not.
        here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def deep_manifest(scene: Scene) -> None:
    depth = scene.chance.choice([10**3, 10**5, 10**6])
    text = scene.chance.choice(["[" * depth, '{"body":' * depth, "[" * depth + "]" * depth])
    scene.manifest_file().write_text(text)


def grown(scene: Scene) -> None:
    """A file that is read whole is a hole, larger than any memory."""
    os.truncate(scene.chance.choice([scene.manifest_file(), scene.victim / "model/config.json"]), 1 << 40)


def moved_folder(scene: Scene) -> None:
    """A link to what was there: as it was today, and anybody's tomorrow."""
    folder = scene.file().parent
    away = scene.root.parent / f"away-{scene.victim.name}"
    folder.rename(away)
    folder.symlink_to(away)


def not_finite(scene: Scene) -> None:
    """As it was written, by a run that never looked at its values."""
    labels = [entry.label for _, entry in Manifest.load(scene.victim).entries() if entry.dtype == "F32"]
    value = scene.chance.choice([float("nan"), float("inf"), float("-inf")])
    make_not_finite(scene.victim, scene.chance.choice(labels), value)


def at_odds(scene: Scene) -> None:
    """The manifest contradicts itself, and its digest is right."""
    edits = [
        file_left_out, other_step, shape_edited, shape_turned, dtype_edited, tensor_listed, tensor_renamed, named_twice,
        hostile_name,
    ]  # fmt: skip
    edit = scene.chance.choice(edits)
    rewrite(scene.victim, lambda body: edit(body, scene.chance))


_KINDS: tuple[Kind, ...] = (
    one_bit, some_bits, zeroed_page, random_block, lost_write, misdirected_write, shifted, truncated, extended,
    deleted, file_of_another, folder_of_another, hard_link, link_to_file, link_to_folder, link_to_checkpoint,
    exchanged_tensors, edited_header, flipped_manifest, truncated_manifest, zeroed_manifest, manifest_of_another,
    deleted_manifest, edited_manifest, renamed, old_as_new, other_generation, unfinished_promoted, stranger,
    folder_for_file, pipe, device, endpoint, deep_manifest, not_finite, at_odds,
    grown, moved_folder,
)  # fmt: skip
KINDS = {kind.__name__: kind for kind in _KINDS}

OF_ANY_FORMAT = (
    "one_bit", "some_bits", "zeroed_page", "random_block", "lost_write", "misdirected_write", "shifted", "truncated",
    "extended", "deleted", "file_of_another", "hard_link", "link_to_file", "exchanged_tensors", "flipped_manifest",
    "truncated_manifest", "zeroed_manifest", "manifest_of_another", "deleted_manifest", "folder_for_file", "pipe",
    "device", "endpoint",
)  # fmt: skip
"""Those that know nothing of our files: others' checkpoints can meet them too."""


def stale_temporary(scene: Scene) -> None:
    (scene.victim / f".{MANIFEST}").write_bytes(scene.manifest_file().read_bytes()[: scene.chance.randrange(99)])


def stray_file(scene: Scene) -> None:
    (scene.root / scene.chance.choice(["core.1234", "step-60", "step-000099"])).write_bytes(b"x")


def touched(scene: Scene) -> None:
    os.utime(scene.file(), (0, 0))


def moved_and_linked(scene: Scene) -> None:
    """Somebody has moved it to another disk, and left a link: it is what it was."""
    away = scene.root.parent / f"away-{scene.victim.name}"
    scene.victim.rename(away)
    scene.victim.symlink_to(away)


TOLERATED: dict[str, Kind] = {kind.__name__: kind for kind in (stale_temporary, stray_file, touched, moved_and_linked)}
