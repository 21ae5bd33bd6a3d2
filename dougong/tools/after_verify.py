"""What `dougong verify` says to type next, where not all checkpoints are valid."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import KeyStanding, SignatureError, SigningKey
from dougong.checkpoint.verify import VerifyResult, verify
from dougong.errors import CheckpointError, DougongError
from dougong.job.load import load_recorded
from dougong.launcher.client import read_status
from dougong.launcher.signing.key_of_run import key_of_run
from dougong.records.directory import RunDir
from dougong.ui.next_step import next_step, program

_SIGNABLE = (KeyStanding.UNSIGNED, KeyStanding.OTHER)
_MEANS = "--sign puts this key's name under them, by your word that nobody has changed them"


def next_words(directory: Path, results: Sequence[VerifyResult], key: SigningKey | None) -> str:
    """What helps, and the command. `directory`: what was looked at; `results`: of its
    checkpoints."""
    words = f"dougong verify {shlex.quote(str(directory))}"
    if key is None:
        return _after_damage(results, words, None)
    words += f" --key {shlex.quote(str(key.path))}"
    bad = [result for result in results if not result.ok]
    unsigned = [result.directory for result in bad if result.standing in _SIGNABLE]
    if len(unsigned) < len(bad) or not all(verify(path).ok for path in unsigned):
        return _after_damage(results, words, key)
    if is_any_signed(_siblings(results[0].directory), key):
        return _after_doubt(unsigned, key)
    if any(result.standing is KeyStanding.OTHER for result in bad):
        words = f"{words} --sign"
        return f"name the key that they were signed with; where it is lost, {_MEANS}: {words}"
    return f"they are whole; {_MEANS}: {words} --sign"


def standing_of(checkpoint: Path, key: SigningKey) -> KeyStanding | None:
    """How it stands to the key, by its manifest alone; None where that is damaged."""
    try:
        Manifest.load(checkpoint, key)
    except SignatureError as error:
        return error.standing
    except CheckpointError:
        return None
    return KeyStanding.SIGNED


def is_any_signed(checkpoints: Iterable[Path], key: SigningKey) -> bool:
    """Whether one of them has a good signature by the key."""
    return any(standing_of(path, key) is KeyStanding.SIGNED for path in checkpoints)


def why_not(standing: KeyStanding | None) -> str:
    """Why one is not signed with the others."""
    if standing is KeyStanding.WRONG:
        return "somebody without the key has changed it since it was signed"
    if standing is None:
        return "it is damaged"
    return "others of the run are signed by this key; who knows why it is not names it alone"


def _siblings(checkpoint: Path) -> list[Path]:
    return [place.path for place in list_committed(checkpoint.absolute().parent)]


def _after_doubt(unsigned: Sequence[Path], key: SigningKey) -> str:
    """One that is not signed among others that are: whoever has changed it could not sign it."""
    names = ", ".join(path.name for path in unsigned)
    one = f"dougong verify {shlex.quote(str(unsigned[0]))} --key {shlex.quote(str(key.path))}"
    return (
        f"others of the run are signed by this key, so the signature of {names} may have been "
        f"taken away: put a whole copy in its place; where you know why it has none: {one} --sign"
    )


def _after_damage(results: Sequence[VerifyResult], words: str, key: SigningKey | None) -> str:
    """Some are damaged, or changed by somebody without the key. `words`: those that look again."""
    bad = [result for result in results if not result.ok]
    if all(result.is_unread for result in bad):
        return f"mend or mount the storage, then: {words}"
    run = _run_of(results[0].directory)
    if run is None:
        return f"put a whole copy in its place, then: {words}"
    status, events = read_status(run), run.read_events()
    named = shlex.quote(str(run.path))
    seen = {result.directory.absolute() for result in results}
    others = [path for path in _siblings(results[0].directory) if path not in seen]
    is_any_valid = len(bad) < len(results) or any(verify(path, key=key).ok for path in others)
    lives = not status.has_ended and status.state != "LOST"
    if is_any_valid or lives:
        by_key = "" if key is None or lives or _signs_by(run, key) else _sign_words(key)
        return f"{next_step(run.path, status.state.lower(), events)}{by_key}"
    resume = f"{program(events)} resume {named} --from-scratch"
    return f"put a whole copy in its place, or begin anew, with what is there set aside: {resume}"


def _signs_by(run: RunDir, key: SigningKey) -> bool:
    """Whether a resume looks at signatures by this key, as the run's job says."""
    try:
        own = key_of_run(run.path, load_recorded(run.job_file).job.checkpoint.sign, is_new=False)
    except DougongError:
        return False
    return own is not None and own.name == key.name


def _sign_words(key: SigningKey) -> str:
    return f" -o checkpoint.sign={shlex.quote(str(key.path.absolute()))}"


def _run_of(checkpoint: Path) -> RunDir | None:
    """The run whose checkpoint it is; None for a folder of its own."""
    run = RunDir(checkpoint.absolute().parent.parent)
    is_its = checkpoint.absolute().parent == run.checkpoints and run.events_file.is_file()
    return run if is_its else None
