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
SOURCES = sorted(HERE.glob("*.cpp"))
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
    from torch.utils.cpp_extension import include_paths, library_paths

    flags = ["-std=c++20", "-O1", "-fPIC", "-w", f"-DTORCH_EXTENSION_NAME={NAME}", "-DUSE_C10D_GLOO"]
    paths = [*include_paths(), sysconfig.get_path("include")]
    flags += [f"-isystem{path}" for path in paths]
    objects = [folder / f"{source.stem}.o" for source in SOURCES]
    compilers = [
        subprocess.Popen(["g++", *flags, "-c", str(source), "-o", str(target)], stderr=subprocess.PIPE, text=True)
        for source, target in zip(SOURCES, objects, strict=True)
    ]
    for compiler in compilers:
        _, words = compiler.communicate(timeout=BUILD_S)
        if compiler.returncode:
            raise subprocess.CalledProcessError(compiler.returncode, compiler.args, stderr=words)
    library = folder / "library.so"
    libraries = ["-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"]
    folders = [f"-L{path}" for path in library_paths()]
    subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(library), *folders, *libraries], check=True)
    return library
