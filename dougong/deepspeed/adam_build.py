"""DeepSpeed's CPU Adam, compiled: by DeepSpeed's own builder, once for each kind of machine, and
kept.

The package ships sources. They are compiled by a child process, since DeepSpeed chooses itself a
device when it is imported, and a worker has one already; a worker only loads the library that came
out. Imports neither torch nor deepspeed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from dougong.accelerators.base import package_version
from dougong.accelerators.cpu import processor_flags
from dougong.control.cache_place import cache_place, why_unwritable
from dougong.control.environment import chosen_compiler, compiling_environment
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import DeviceError
from dougong.job.schema import Job
from dougong.remarks import Remarks

NAME = "cpu_adam"
"""What DeepSpeed calls the library."""
KEY = "optimizer.device: host"
_INSTALL = "DS_BUILD_OPS=0 pip install 'dougong[deepspeed]'"


def load_adam(job: Job) -> Any:
    """The library as a module, compiled now if no process of this machine has done it before.

    Raises DeviceError that says what is missing, or how compiling failed.
    """
    import torch  # its libraries have to be there first

    assert torch.__version__
    spec = importlib.util.spec_from_file_location(NAME, built(_place(job)))
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def adam_version(job: Job) -> str:
    """By which the library that the job's workers load here is told from any other one."""
    return file_in(_place(job)).name


def check_adam(job: Job) -> None:
    """DeviceError where the job needs the library, and this machine can neither find nor make
    it."""
    reason = _why_not(job)
    if reason is not None:
        raise DeviceError(f"{KEY}: {socket.gethostname()}: {reason}")


def adam_remarks(job: Job) -> Remarks:
    """What is told before a run of it, as far as this machine's packages tell: workers may be on
    others."""
    if not job.optimizer.is_on_host:
        return Remarks()
    reason = _why_not(job)
    if reason is not None:
        return Remarks(warnings=(f"{KEY}: on this machine, {reason}",))
    if file_in(_place(job)).is_file():
        return Remarks()
    note = (
        f"{KEY}: DeepSpeed's CPU Adam is compiled before the first step, once for each kind of "
        f"machine, which takes about a minute; it is kept in {_place(job)}"
    )
    return Remarks(notes=(note,))


def built(place: Path, deadlines: Deadlines = DEADLINES) -> Path:
    """The library's file in a folder, made by this call if it has to be. Other processes wait
    meanwhile. Raises DeviceError."""
    file = file_in(place)
    _refuse_exposed(file)
    if file.is_file():
        return file
    reason = _why_not_compiled()
    if reason is not None:
        raise DeviceError(f"{KEY}: {socket.gethostname()}: {reason}")
    until = time.monotonic() + deadlines.compile_s
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place / f"{NAME}.lock", until, deadlines):
            if not file.is_file():  # another process may have been faster
                _build(file, until, deadlines)
    except OSError as error:
        raise DeviceError(
            f"{KEY}: {place}: DeepSpeed's CPU Adam cannot be kept there: {error.strerror}; name a "
            "folder that can be written by `cache:` in the job file"
        ) from error
    return file


def file_in(place: Path) -> Path:
    """Where the library lies when it was made. Its name holds all that it depends on: a home folder
    may be several kinds of machines'."""
    versions = (package_version("deepspeed"), package_version("torch"), sys.version)
    facts = repr((versions, platform.machine(), sorted(processor_flags())))
    digest = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    return place / f"{NAME}-{digest}.so"


def _place(job: Job) -> Path:
    """The folder in the job's cache; without one, one of this user's that every start finds."""
    place = cache_place(job.cache)
    return (place or Path(tempfile.gettempdir()) / f"dougong-{os.getuid()}") / "deepspeed"


def _refuse_exposed(file: Path) -> None:
    """What lies there is code that workers load: DeviceError where other users could have put it
    there. Of a folder under /tmp anybody may have been the first to make it."""
    for place in (file, file.parent, file.parent.parent):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if found.st_mode & stat.S_IWOTH or _is_anothers(place, found.st_uid):
            raise DeviceError(
                f"{KEY}: {place}: other users of this machine may have written it, and workers "
                "load code from there; remove it, or name a folder of your own by `cache:` in the "
                "job file"
            )


def _is_anothers(place: Path, owner: int) -> bool:
    """Whether it lies in the folder for temporary files and is neither ours nor root's; a team's
    cache, which the job names, may be a colleague's."""
    return place.is_relative_to(tempfile.gettempdir()) and owner not in (os.getuid(), 0)


def _why_not(job: Job) -> str | None:
    if not job.optimizer.is_on_host or file_in(_place(job)).is_file():
        return None
    return _why_not_compiled() or why_unwritable(_place(job))


def _why_not_compiled() -> str | None:
    """What this machine lacks to compile it, in words; None where nothing is known to be
    missing."""
    if package_version("deepspeed") is None:
        return f"the package deepspeed is not installed: {_INSTALL}"
    if package_version("ninja") is None and shutil.which("ninja") is None:
        return "ninja, which compiles DeepSpeed's CPU Adam, is not installed: pip install ninja"
    words = chosen_compiler()
    trouble = f"no C++ compiler `{words[0]}` is found"
    if shutil.which(words[0]) is not None:
        if _says_its_version(words):
            return None
        trouble = f"the C++ compiler `{shlex.join(words)}` does not say its version"
    return (
        f"{trouble}, and DeepSpeed's CPU Adam has to be compiled: install one (apt-get install "
        "g++), or name one by the variable CXX"
    )


def _says_its_version(words: Sequence[str]) -> bool:
    try:
        asked = [*words, "--version"]
        ended = subprocess.run(asked, capture_output=True, timeout=DEADLINES.compiler_answers_s)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


@contextmanager
def _locked(path: Path, until: float, deadlines: Deadlines) -> Iterator[None]:
    with path.open("w") as lock:
        while not _takes(lock):
            if time.monotonic() > until:
                raise DeviceError(
                    f"{KEY}: {path}: another process has been compiling DeepSpeed's CPU Adam for "
                    f"{deadlines.words('compile_s')}; end it, and start again"
                )
            time.sleep(deadlines.poll_every_s)
        yield


def _takes(lock: IO[str]) -> bool:
    """Whether this process has the lock now; it goes with the file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _build(file: Path, until: float, deadlines: Deadlines) -> None:
    """Have DeepSpeed's builder compile it in a folder of its own, and take what came out."""
    log = file.with_suffix(".log")
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch, log.open("w") as output:
        environment = compiling_environment(Path(scratch), Path(sys.executable).parent)
        words = [sys.executable, "-m", "dougong.deepspeed.compile_adam"]
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        code = _ended(process, until)
        found = Path(scratch) / NAME / f"{NAME}.so"
        if code != 0 or not found.is_file():
            raise DeviceError(_failure(code, log, deadlines))
        found.rename(file)
    log.unlink()


def _ended(process: subprocess.Popen[bytes], until: float) -> int | None:
    """Its exit status; None: it has not ended in time, and was killed with all that it had
    begun."""
    try:
        return process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEADLINES.kill_s)


def _failure(code: int | None, log: Path, deadlines: Deadlines) -> str:
    what = f"{KEY}: {socket.gethostname()}: DeepSpeed's CPU Adam does not compile"
    if code is None:
        return f"{what}: it was not done after {deadlines.words('compile_s')}; see {log}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    of_compiler = [line for line in lines if "error: " in line]
    said = of_compiler[:1] or lines[-1:] or [f"status {code}"]
    return f"{what} ({said[0]}); mend what it says in {log}, then start again"
