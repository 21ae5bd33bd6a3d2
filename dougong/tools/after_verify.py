"""What `dougong verify` says to type next, where not all checkpoints are valid."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import KeyStanding, SignatureError, SigningKey
from dougong.checkpoint.verify import VerifyResult, verify_whoever_signed
from dougong.errors import CheckpointError, DougongError
from dougong.job.load import load_recorded
from dougong.launcher.client import read_status
from dougong.launcher.signing.key_of_run import key_of_run
from dougong.records.directory import RunDir
from dougong.records.finished import launch_words
from dougong.ui.next_step import NextStep, next_step, program

_SIGNABLE = (KeyStanding.UNSIGNED, KeyStanding.OTHER)
_MEANS = "--sign puts this key's name under them, by your word that nobody has changed them"


def next_words(directory: Path, results: Sequence[VerifyResult], key: SigningKey | None) -> str:
    """What helps, and the command. `directory`: what was looked at; `results`: of its checkpoints,
    where not all are valid, by `verify_whoever_signed`."""
    bad = [result for result in results if not result.ok]
    unsigned = [result.directory for result in bad if _may_be_signed(result)]
    if key is None or len(unsigned) < len(bad):
        return _after_damage(directory, results, key)
    if is_any_signed(_siblings(results[0].directory), key):
        return _after_doubt(unsigned, key)
    return f"{_means_to_sign(bad)}: {_verify_words(directory, key)} --sign"


def _may_be_signed(result: VerifyResult) -> bool:
    """Whether it is whole, and who trusts it may sign it."""
    return result.is_whole and result.standing in _SIGNABLE


def _means_to_sign(unsigned: Iterable[VerifyResult]) -> str:
    if any(result.standing is KeyStanding.OTHER for result in unsigned):
        return f"name the key that they were signed with; where it is lost, {_MEANS}"
    return f"they are whole; {_MEANS}"


def _verify_words(directory: Path, key: SigningKey | None) -> str:
    """The command that looks again."""
    words = f"dougong verify {shlex.quote(str(directory))}"
    return words if key is None else f"{words} --key {shlex.quote(str(key.path))}"


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


def why_not(standing: KeyStanding | None, found: VerifyResult) -> str:
    """Why one is not signed with the others. `found`: of its bytes alone."""
    if standing is KeyStanding.WRONG:
        return "somebody without the key has changed it since it was signed"
    if found.is_unread:
        return "storage does not give it"
    if not found.ok:
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


def _after_damage(directory: Path, results: Sequence[VerifyResult], key: SigningKey | None) -> str:
    """Some are damaged, or changed by somebody without the key."""
    again = _verify_words(directory, key)
    if all(result.is_unread for result in results if not result.ok):
        return f"mend or mount the storage, then: {again}"
    run = _run_of(results[0].directory)
    everything = _with_siblings(results, key) if run is not None else tuple(results)
    valid = [result for result in everything if result.ok]
    if not valid and key is not None and _is_trust_open(everything):
        return _after_partial_damage(directory if run is None else run.path, everything, key)
    if run is None:
        return f"put a whole copy in its place, then: {again}"
    return _of_run(run, everything, key)


def _with_siblings(
    results: Sequence[VerifyResult], key: SigningKey | None
) -> tuple[VerifyResult, ...]:
    """Of all checkpoints of the run, those that were not looked at, too."""
    seen = {result.directory.absolute() for result in results}
    others = [path for path in _siblings(results[0].directory) if path not in seen]
    return (*results, *[verify_whoever_signed(path, key) for path in others])


def _is_trust_open(results: Sequence[VerifyResult]) -> bool:
    """Whether there are whole ones that who trusts them may sign. Where one bears the key's name
    and was changed, the others may have lost their signature to whoever did that."""
    if any(result.standing is KeyStanding.WRONG for result in results):
        return False
    return any(_may_be_signed(result) for result in results)


def _after_partial_damage(place: Path, results: Sequence[VerifyResult], key: SigningKey) -> str:
    """None is signed, some are whole: those are not to be thrown away with the others."""
    whole = [result for result in results if _may_be_signed(result)]
    lost = sorted(result.directory.name for result in results if not _may_be_signed(result))
    others = ", ".join(sorted(result.directory.name for result in whole))
    parted = f"{', '.join(lost)} cannot be used; as for {others}: {_means_to_sign(whole)}"
    return f"{parted}: {_verify_words(place, key)} --sign"


def _of_run(run: RunDir, results: Sequence[VerifyResult], key: SigningKey | None) -> str:
    """What a run needs that has these checkpoints, of which some are damaged."""
    status, events = read_status(run), run.read_events()
    following = next_step(run.path, status.state.lower(), events)
    if not status.has_ended and status.state != "LOST":
        return str(following)
    valid = [result.step or 0 for result in results if result.ok]
    words = [program(events), "resume", shlex.quote(str(run.path))]
    if not valid:
        resume = " ".join([*words, *launch_words(events), "--from-scratch"])
        anew = "begin anew, with what is there set aside"
        return f"put a whole copy in its place, or {anew}: {resume}"
    if status.state == "FINISHED" and max(valid) == max(result.step or 0 for result in results):
        return str(following)  # what it has come to is whole
    if not following.command.startswith(" ".join(words)):
        following = NextStep(" ".join([*words, *launch_words(events)]))
    by_key = "" if key is None or _signs_by(run, key) else _sign_words(key)
    return f"{following}{by_key}"


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
    has_record = run.events_file.is_file() or run.job_file.is_file()
    is_its = checkpoint.absolute().parent == run.checkpoints and has_record
    return run if is_its else None
