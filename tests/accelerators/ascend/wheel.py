"""torch_npu's own package, of torch's release, in a folder of its own, and processes that can import it.

It is fetched by pip, once for each release, and lies beside the stub libraries that are made from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dougong.accelerators.npu import Npu
from tests.accelerators.ascend import stubs

ROOT = Path(__file__).resolve().parents[3]
FETCH_S = 280
ASK_S = 120


@dataclass(frozen=True)
class Wheel:
    """Where the package (`site`) and the stub libraries (`libraries`) are."""

    site: Path
    libraries: Path

    def ask(self, question: str, num_devices: int = 2) -> Any:
        """What a function of `inside.py` answers, in a process of its own that has so many devices; a worker's
        environment, as dougong makes it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND_")}
        environment |= Npu().worker_environment(1)
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.site)]),
            "LD_LIBRARY_PATH": str(self.libraries),
            "STUB_NPUS": str(num_devices),
        }
        command = [sys.executable, "-m", "tests.accelerators.ascend.inside", question]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=ASK_S)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    @property
    def package(self) -> Path:
        return self.site / Npu.plugin

    def files_that_name(self, word: str) -> list[str]:
        """Libraries and modules of the package in which a word stands."""
        files = [*self.package.rglob("*.so"), *self.package.rglob("*.py")]
        return sorted(file.name for file in files if word.encode() in file.read_bytes())


def fetched() -> Wheel:
    """The package of this torch's release; another process waits meanwhile. CalledProcessError with pip's words where
    it cannot be had."""
    place = _cache() / _digest()
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                _make(Path(scratch)).rename(place)
    return Wheel(place / "site", place / "stubs")


def _make(scratch: Path) -> Path:
    folder = scratch / "whole"
    site, libraries = folder / "site", folder / "stubs"
    libraries.mkdir(parents=True)
    wish = f"{Npu.package}=={torch.__version__.partition('+')[0]}"
    options = ("--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", str(site))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wish], check=True, timeout=FETCH_S)
    stubs.write_stubs(site / Npu.plugin, Path(torch.__file__).parent, libraries)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dougong" / "torch-npu"


def _digest() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {torch.__file__} {sys.version}".encode())
    for file in (Path(stubs.__file__), stubs.RUNTIME):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
