"""The key by which a run's checkpoints are signed."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.disk import storage_error
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import SigningKey
from dougong.errors import CheckpointError, SourceError
from dougong.job.schema import OWN_SIGNING_KEY
from dougong.launcher.signing.key_file import MAKE_KEY, make_key, named_key, read_key
from dougong.records.directory import RunDir
from dougong.records.finished import resume_command

OWN_KEY = Path("private", "checkpoints.key")
"""Where a key lies that the run makes for itself, in its directory."""
_KEY = "checkpoint.sign"


def key_of_run(run: Path, sign: str | None, is_new: bool) -> SigningKey | None:
    """The key that a job's `checkpoint.sign` means, for the run in that directory; None: it does
    not sign. `is_new`: the run has not signed before, so that a key of its own is made.

    CheckpointError where there is no such key, or no longer.
    """
    if sign != OWN_SIGNING_KEY:
        return named_key(sign)
    place = run / OWN_KEY
    try:
        return make_key(place) if is_new and not place.exists() else _own_key(place)
    except OSError as error:
        raise storage_error(place, error, "the key of its checkpoints") from error


def _own_key(place: Path) -> SigningKey:
    if place.exists():
        # Who may write the run's directory needs no key of theirs: a run's start warns of that.
        return read_key(place, within=place.parent.parent)
    resume = resume_command(place.parent.parent, changes=_KEY)
    raise CheckpointError(
        f"{place}: the key that the run's checkpoints are signed with is gone; put it back, or go "
        f"on without: `{resume} -o checkpoint.sign=null`, which checks no signature"
    )


def key_of_resume(
    run_dir: RunDir, before: str | None, sign: str | None, has_committed: bool, chosen: int | None
) -> SigningKey | None:
    """As `key_of_run`, for a run that goes on. `before`: what `checkpoint.sign` said until now;
    `has_committed`, `chosen`: as in `ResumePoint`.

    SourceError where there are checkpoints to go on from and none names this key; nothing is
    written then.
    """
    run = run_dir.path
    is_new = not (has_committed and sign == before)
    is_made = sign == OWN_SIGNING_KEY and is_new and not (run / OWN_KEY).exists()
    key = None if is_made else key_of_run(run, sign, is_new)
    if sign is not None:
        signed_by = _signed_by(run_dir.checkpoints, chosen)
        if signed_by and (key is None or key.name not in signed_by.values()):
            raise SourceError(_other_key_words(run_dir, signed_by, before, key))
    return key_of_run(run, sign, is_new) if is_made else key


def _signed_by(root: Path, chosen: int | None) -> dict[str, str]:
    """By which key each checkpoint that a resume may go on from says that it is signed, empty for
    none; newest first. Of what cannot be read the search for one tells. `chosen`: as in
    `ResumePoint`."""
    found = {}
    for place in list_committed(root):
        if chosen is None or place.step == chosen:
            with contextlib.suppress(CheckpointError):
                found[place.path.name] = Manifest.load(place.path).signed_by
    return found


def _other_key_words(
    run_dir: RunDir, signed_by: Mapping[str, str], before: str | None, key: SigningKey | None
) -> str:
    """That the key is the cause, and the ways on."""
    told = []
    for name, signer in signed_by.items():
        told.append(f"{name} by key {signer}" if signer else f"{name} by none")
    whose = (
        "a key that is yet to be made" if key is None else f"{key.path}, which is key {key.name}"
    )
    signer = next(filter(None, signed_by.values()), "")
    ways = [*_with_theirs(run_dir.path, before, signer), *_without_theirs(run_dir.path, key)]
    return (
        f"{run_dir.checkpoints}: checkpoint.sign means {whose}, and no checkpoint is signed by it "
        f"({', '.join(told)}); {'; '.join(ways)}"
    )


def _with_theirs(run: Path, before: str | None, signer: str) -> Iterator[str]:
    """How to go on with the key that has signed them."""
    if signer:
        value = _place_of(run, before, signer) or f"FILE (the file of key {signer})"
        resume = resume_command(run, changes=_KEY)
        yield f"with their own key: `{resume} -o checkpoint.sign={value}`"


def _without_theirs(run: Path, key: SigningKey | None) -> Iterator[str]:
    """How to go on with this key, and with none."""
    resume = resume_command(run, changes=_KEY)
    file = "FILE" if key is None else shlex.quote(str(key.path))
    verify = f"dougong verify {shlex.quote(str(run))} --key {file} --sign"
    which = "with this key" if key is not None else f"with a new one (`{MAKE_KEY}`)"
    yield f"{which}, if you trust them: `{verify}`, then `{resume} -o checkpoint.sign={file}`"
    yield f"with none: `{resume} -o checkpoint.sign=null`, which checks no signature"


def _place_of(run: Path, before: str | None, name: str) -> str:
    """What `checkpoint.sign` is to say for the key of this name: what it said before, where that is
    it; empty where not."""
    with contextlib.suppress(CheckpointError):
        known = _own_key(run / OWN_KEY) if before == OWN_SIGNING_KEY else named_key(before)
        if before is not None and known is not None and known.name == name:
            return shlex.quote(before)
    return ""
