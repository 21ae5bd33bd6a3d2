"""Builds the simulated device, once for each state of its sources and each torch; another process waits meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

NAME = "simdev_native"
HERE = Path(__file__).parent
SOURCES = [HERE / f"{name}.cpp" for name in ("defects", "memory", "streams", "operators", "collectives")]
BUILD_S = 600


def load() -> ModuleType:
    """The extension module. CalledProcessError with the compiler's words when it does not build."""
    import torch  # its libraries have to be there first

    assert torch.__version__
    spec = importlib.util.spec_from_file_location(NAME, built())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built() -> Path:
    """The library's file, which this call may have to make."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{NAME}-{_digest()}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _build(Path(scratch)).rename(place)
    return place


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dougong" / "simdev"


def _digest() -> str:
    import torch

    digest = hashlib.sha256(f"{torch.__version__} {torch.__file__} {sys.version}".encode())
    for file in (*SOURCES, HERE / "simdev.h", Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path) -> Path:
    """All sources as one: most of the time goes to torch's headers, which are read once then."""
    from torch.utils.cpp_extension import include_paths, library_paths

    whole = folder / "whole.cpp"
    whole.write_text("".join(f'#include "{source}"\n' for source in SOURCES))
    library = folder / "library.so"
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-DTORCH_EXTENSION_NAME={NAME}", "-DUSE_C10D_GLOO"]
    flags += [f"-isystem{path}" for path in (*include_paths(), sysconfig.get_path("include"))]
    libraries = ["-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"]
    folders = [f"-L{path}" for path in library_paths()]
    words = ["g++", *flags, str(whole), "-o", str(library), *folders, *libraries]
    subprocess.run(words, check=True, stderr=subprocess.PIPE, text=True, timeout=BUILD_S)
    return library
