"""The proof that a run directory is one and the same on every machine: what the controller writes
there, an agent reads, and what the agent answers there, the controller reads.

    FOLDER/.proof.<name>           the controller's word, which is told nowhere else
    FOLDER/.proof.<name>.<agent>   the agent's answer: that word

A name is used once, so that no network file system has it in a cache as one that is not there. A
stale copy, another mount, or a folder that cannot be written shows at once, not at the first
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dougong.control.handshake import FolderFault, FolderTrouble
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import StorageError
from dougong.records.directory import PROOF, RunDir
from dougong.records.files import ROOM

_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class FolderProof:
    """One start's proof, as agents are told of it: its name, and the folders that workers write
    in."""

    name: str
    folders: tuple[str, ...]

    def question(self, folder: str) -> Path:
        return Path(folder) / f".{PROOF}.{self.name}"

    def answer(self, folder: str, agent: str) -> Path:
        return Path(folder) / f".{PROOF}.{self.name}.{agent}"


class FolderProver:
    """The side of whoever asks: a controller, of agents that are about to be started, each by its
    name. `look` may be called by several threads."""

    def __init__(
        self, folders: Sequence[Path], agents: Sequence[str], deadlines: Deadlines
    ) -> None:
        """StorageError when one of the folders cannot be written on this machine."""
        self._deadlines = deadlines
        self._awaited = set(agents)
        self._lock = threading.Lock()
        self._word = secrets.token_hex(16)
        self.proof = FolderProof(secrets.token_hex(8), tuple(map(str, folders)))
        with _told_as_storage(folders[0]):
            for folder in self.proof.folders:
                self.proof.question(folder).write_text(self._word, encoding="utf-8")

    @staticmethod
    def of_run(run_dir: RunDir, agents: Sequence[str], deadlines: Deadlines) -> FolderProver:
        """For the folders of a run directory. StorageError when it cannot be written here."""
        with _told_as_storage(run_dir.path):
            run_dir.logs.mkdir(exist_ok=True)
            written = [run_dir.path, run_dir.logs, run_dir.checkpoints, run_dir.ledger]
            folders = [folder for folder in written if folder.is_dir()]
            _clear(folders, f".{PROOF}.*")  # of every start: there is one controller at a time
        return FolderProver(folders, agents, deadlines)

    def look(self, agent: str, told: FolderTrouble | None) -> FolderTrouble | None:
        """What is wrong with the run directory on the agent's machine, now that it has said what it
        has found (`told`). Its answers are deleted then; the questions, when the last one of the
        agents has answered."""
        found = told
        deadline = time.monotonic() + self._deadlines.shared_file_s
        for folder in self.proof.folders:
            found = found or self._look_at(folder, self.proof.answer(folder, agent), deadline)
        for folder in self.proof.folders:
            _delete(self.proof.answer(folder, agent))
        with self._lock:
            self._awaited.discard(agent)
            is_last = not self._awaited
        if is_last:
            self.close()
        return found and replace(found, mount_here=mount_of(found.folder))

    def close(self) -> None:
        """Delete what is left of this proof; another start may have begun its own by now."""
        _clear([Path(folder) for folder in self.proof.folders], f".{PROOF}.{self.proof.name}*")

    def _look_at(self, folder: str, answer: Path, deadline: float) -> FolderTrouble | None:
        text = _await_text(answer, deadline, self._word)
        if isinstance(text, FolderTrouble):
            return FolderTrouble(folder, "unanswered", text.reason, text.number)
        return None


@contextlib.contextmanager
def _told_as_storage(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        named = error.filename or place
        raise StorageError(f"{named}: cannot be written: {error.strerror}; {ROOM}") from error


def answer_proof(proof: FolderProof, agent: str, deadlines: Deadlines) -> FolderTrouble | None:
    """The agent's side: read the controller's word in every folder and answer by a file. What
    hinders that, None for nothing. A file system that does not answer holds nobody up for ever."""
    found: list[FolderTrouble | None] = []
    deadline = time.monotonic() + deadlines.shared_file_s

    def work() -> None:
        found.append(_answer_all(proof, agent, deadline))

    # Daemon: a call into a dead network mount never returns, and cannot be broken off.
    thread = threading.Thread(target=work, name="dougong-proof", daemon=True)
    thread.start()
    limit_s = deadlines.shared_file_s + deadlines.last_word_s
    thread.join(limit_s)
    if found:
        return found[0]
    reason = f"the file system has not answered within {deadlines.words('shared_file_s')}"
    return FolderTrouble(proof.folders[0], "unreadable", reason)


def withdraw_answers(proof: FolderProof, agent: str) -> None:
    """Delete what the agent has written, also into a directory that nobody else sees."""
    for folder in proof.folders:
        _delete(proof.answer(folder, agent))


def _answer_all(proof: FolderProof, agent: str, deadline: float) -> FolderTrouble | None:
    for folder in proof.folders:
        word = _await_text(proof.question(folder), deadline)
        if isinstance(word, FolderTrouble):
            return word
        try:
            proof.answer(folder, agent).write_text(word, encoding="utf-8")
        except OSError as error:
            return _trouble(folder, "unwritable", error)
    return None


def _await_text(file: Path, deadline: float, wanted: str = "") -> str | FolderTrouble:
    """What another machine has written into a file (`wanted`: exactly that), or why it has not come
    by the deadline (monotonic seconds)."""
    while True:
        try:
            text = file.read_text(encoding="utf-8")
            if text and wanted in ("", text):
                return text
            trouble = _trouble(str(file.parent), "other")
        except (FileNotFoundError, NotADirectoryError):
            trouble = _not_there(file.parent)
        except (OSError, UnicodeDecodeError) as error:
            trouble = _trouble(str(file.parent), "unreadable", error)
        if time.monotonic() > deadline:
            return trouble
        time.sleep(DEADLINES.shared_file_every_s)


def _not_there(folder: Path) -> FolderTrouble:
    try:
        is_there = folder.is_dir()
    except OSError as error:
        return _trouble(str(folder), "unreadable", error)
    return _trouble(str(folder), "other" if is_there else "absent")


def _trouble(folder: str, fault: FolderFault, error: Exception | None = None) -> FolderTrouble:
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number is not None else str(error or "")
    return FolderTrouble(folder, fault, reason, number, os.geteuid(), mount_of(folder))


def mount_of(folder: str, mounts: Path = _MOUNTS) -> str:
    """The file system that holds a folder, such as `nfs4 nas:/export`; empty where that is not
    known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place = os.path.realpath(folder)
    best, found = "", ""
    for line in lines:
        # number parent device root POINT options [fields] - TYPE SOURCE options
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two at one point, the later one hides the other
            best, found = point, " ".join(after.split()[:2])
    return found


def _clear(folders: Sequence[Path], pattern: str) -> None:
    """Delete questions and answers."""
    for folder in folders:
        for file in folder.glob(pattern):
            _delete(file)


def _delete(file: Path) -> None:
    with contextlib.suppress(OSError):  # gone, or never there
        file.unlink()
