"""Digests of the source code that a run computes with: dougong's own, the model family's in
transformers, and an accelerator's package.

Versions tell releases apart, not what has been changed since: a checkout that was not brought up
to date trains to other bits under the same version. A digest for each folder of a package, of the
names and bytes of its files alone, is the same wherever the package lies. Imports neither torch nor
transformers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.accelerators.registry import get_accelerator
from dougong.control.handshake import PackageCode
from dougong.control.run_sources import RunSources
from dougong.errors import DeviceError, ModelError
from dougong.job.schema import Model
from dougong.models.stored.folder import CONFIG, read_json

_OURS = "dougong"
_SUFFIXES = (".py", ".json", ".j2")
_CACHES = "__pycache__"
_DIGEST_BYTES = 8
_MOST_FOLDERS = 200
"""A vendor's package of more is one digest: an agent's first message must stay small."""
_SHARED = ("integrations", "utils", "loss", "generation", "distributed")
"""Folders of transformers that every family's code is built of, beside the files at its top."""
_SIBLING = re.compile(r"^\s*from \.\.(\w+)[ .]", re.MULTILINE)
"""How a family's code takes something of another family's."""
_SOURCE_OF_OTHERS = "modular_"
"""Begins the names of files from which transformers writes the others: nobody imports them."""


def code_of(model_types: Sequence[str], accelerators: Sequence[str]) -> dict[str, PackageCode]:
    """The packages whose source computes, as they lie on this machine. `model_types`: as
    `model_types_of` finds them; `accelerators`: by name."""
    found = {_OURS: _whole(_OURS), "transformers": _of_models(model_types)}
    for accelerator in accelerators:
        package = _package_of(accelerator)
        if package not in found:
            found[package] = _whole(package)
    return found


def _package_of(accelerator: str) -> str:
    try:
        return type(get_accelerator(accelerator)).__module__.partition(".")[0]
    except DeviceError:
        return _OURS  # one that does not load: whoever opens it says why


def model_types_of(model: Model, sources: RunSources | None) -> tuple[str, ...]:
    """The transformers model types that a job's model is built of. `sources`: what the run had read
    when it began. Empty where the folder's configuration cannot be read: whoever builds the model
    says so."""
    if sources is not None:
        return _types_in(sources.config)
    if model.path is None:
        return tuple(dict.fromkeys((model.family or "", *_types_in(model.config))))
    try:
        return _types_in(read_json(Path(model.path).expanduser() / CONFIG))
    except ModelError:
        return ()


def _types_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that a configuration names, its parts' too."""
    found = []
    for value in (config, *config.values()):
        kind = value.get("model_type") if isinstance(value, Mapping) else None
        if isinstance(kind, str) and kind:
            found.append(kind)
    return tuple(dict.fromkeys(found))


def _whole(package: str) -> PackageCode:
    """All folders of a package; of a single module its file."""
    place = _place_of(package)
    if place is None:
        return PackageCode("", {})
    if place.is_file():
        return PackageCode(str(place), {place.name: _digest_of([place])})
    return _package(place, _tree(place))


def _of_models(model_types: Sequence[str]) -> PackageCode:
    """What models of these types are built of."""
    place = _place_of("transformers")
    if place is None:
        return PackageCode("", {})
    return _package(place, _folders_of_models(place, model_types))


def _package(place: Path, folders: Iterable[Path]) -> PackageCode:
    digests = {}
    for folder in folders:
        # Named from the package on, so that the same file has one name wherever that lies.
        digests[folder.relative_to(place.parent).as_posix()] = _digest_of(_files(folder))
    if len(digests) > _MOST_FOLDERS:
        total = hashlib.blake2b(json.dumps(digests).encode(), digest_size=_DIGEST_BYTES)
        digests = {place.name: total.hexdigest()}
    return PackageCode(str(place), digests)


def _place_of(package: str) -> Path | None:
    """Where a package lies, without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations is not None else origin


def _tree(top: Path) -> Iterator[Path]:
    """A folder and those below it that hold source."""
    for folder, names, _ in os.walk(top):
        names[:] = sorted(name for name in names if name != _CACHES)
        path = Path(folder)
        if _files(path):
            yield path


def _folders_of_models(transformers: Path, model_types: Sequence[str]) -> Iterator[Path]:
    """The folders of transformers that models of these types are built of."""
    yield transformers
    for name in _SHARED:
        if (transformers / name).is_dir():
            yield from _tree(transformers / name)
    models = transformers / "models"
    awaited = [models / "auto", *(_folder_of(models, kind) for kind in model_types)]
    taken: list[Path] = []
    while awaited:
        folder = awaited.pop()
        if folder in taken or not folder.is_dir():
            continue
        taken.append(folder)
        yield folder
        awaited += [models / name for name in _siblings(folder)]


def _folder_of(models: Path, model_type: str) -> Path:
    """Where a type's code lies. Most folders are named as the type is, others are in a table of
    transformers; a part of a larger model lies with it (`gemma4_text` in `gemma4`)."""
    named = models / model_type.replace("-", "_")
    if named.is_dir():
        return named
    entry = re.compile(rf"""["']{re.escape(model_type)}["'],?:? *["'](\w+)["']""")
    for table in sorted((models / "auto").glob("*.py")):
        for match in entry.finditer(_text(table)):
            if (models / match.group(1)).is_dir():
                return models / match.group(1)
    while "_" in named.name and not named.is_dir():
        named = named.with_name(named.name.rpartition("_")[0])
    return named


def _siblings(folder: Path) -> set[str]:
    """Names of other families' folders whose code this one imports."""
    if folder.name == "auto":
        return set()  # a table of all families, none of which it imports before it is asked for
    found: set[str] = set()
    for file in _files(folder):
        if file.suffix == ".py" and not file.name.startswith(_SOURCE_OF_OTHERS):
            found.update(_SIBLING.findall(_text(file)))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # its digest will tell


def _files(folder: Path) -> list[Path]:
    """The source files that lie in a folder itself; none in one that cannot be read."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(_SUFFIXES)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def _digest_of(files: Sequence[Path]) -> str:
    """Of names and bytes; one that cannot be read counts by its name and the reason."""
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            data = str(error.strerror).encode()
        # With their lengths, no two lists of files are the same bytes.
        total.update(json.dumps([file.name, len(data)]).encode())
        total.update(data)
    return total.hexdigest()
