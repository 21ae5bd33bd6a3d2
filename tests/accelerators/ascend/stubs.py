"""Libraries under CANN's names, made from what torch_npu's own libraries ask for, so that it can be imported where
there is no CANN.

Nothing computes: a call that `runtime.c` does not answer returns 0. So what can be asked of torch_npu is what it knows
by itself: operators' definitions, shapes and dtypes, devices' names, options.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
RUNTIME = HERE / "runtime.c"
NAME = "libascendcl.so"
BUILD_S = 300
_SYSTEM = re.compile(r"(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux[\w-]*|libtorch\w*|libc10)\.so.*")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_OBJECTS = ("_ZTV", "_ZTI", "_ZTS", "_ZTT")
"""C++'s tables of classes, which are data."""
_OF_PYTHON = ("Py", "_Py")
_OBJECT_BYTES = 4096
_LOOKED_UP = re.compile(rb"(?<=\0)(?:acl|Hccl)[A-Za-z]\w+(?=\0)")
"""Names that torch_npu looks up by itself when it first calls them."""


def write_stubs(torch_npu: Path, torch: Path, folder: Path) -> None:
    """Into `folder`: a library that answers all, and a link to it under every name that is asked for. `torch_npu`,
    `torch`: the packages."""
    libraries = [*torch_npu.glob("lib/*.so"), *torch_npu.glob("_C*.so")]
    known = {
        name for library in [*libraries, *torch.glob("lib/*.so*")] for name, _ in _symbols(library, "--defined-only")
    }
    asked = {name for library in libraries for name, kind in _symbols(library, "--undefined-only") if kind == "U"}
    looked_up = {name for library in libraries for name in _looked_up(library)}
    answered = set(re.findall(r"^(?:int|size_t|const char) \*?(\w+)\(", RUNTIME.read_text(), re.MULTILINE))
    names = sorted((asked | looked_up) - known - answered)
    source = folder / "stubs.c"
    source.write_text("\n".join(_definitions(names)))
    words = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", "-o", str(folder / NAME), str(source), str(RUNTIME)]
    subprocess.run(words, check=True, timeout=BUILD_S)
    for name in _needed(libraries) - {NAME} - {library.name for library in libraries}:
        (folder / name).symlink_to(NAME)


def _definitions(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.startswith(_OBJECTS):
            yield f"char {name}[{_OBJECT_BYTES}] __attribute__((aligned(16)));"
        elif _IDENTIFIER.fullmatch(name) and not name.startswith(_OF_PYTHON):
            yield f"long {name}(void) {{ return 0; }}"


def _symbols(library: Path, which: str) -> Iterator[tuple[str, str]]:
    """(name, kind) of a library's symbols. One that says its version is of the system's libraries."""
    listed = subprocess.run(["nm", "-D", which, str(library)], check=True, capture_output=True, text=True, timeout=60)
    for line in listed.stdout.splitlines():
        *_, kind, name = line.split()
        if "@" not in name:
            yield name, kind


def _looked_up(library: Path) -> set[str]:
    return {name.decode() for name in _LOOKED_UP.findall(library.read_bytes())}


def _needed(libraries: Iterable[Path]) -> set[str]:
    """Libraries that these ask for by name and that neither the system nor torch has."""
    found: set[str] = set()
    for library in libraries:
        words = ["readelf", "-d", str(library)]
        listed = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
        found |= set(re.findall(r"NEEDED.*\[(.*)\]", listed))
    return {name for name in found if not _SYSTEM.fullmatch(name)}
