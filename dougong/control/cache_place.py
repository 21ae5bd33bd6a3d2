"""Where that lies which is made once and serves later runs: tokens of text, devices' fingerprints.

By the job's `cache`, else `$XDG_CACHE_HOME/dougong`, else `~/.cache/dougong`. What lies there can
be made anew, so that a folder of one's own for each job or machine costs time and nothing else.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dougong.control.environment import cache_home

REMEDY = "name another folder: `cache: FOLDER` in the job file, or the variable XDG_CACHE_HOME"


def cache_place(chosen: str | None) -> Path | None:
    """The folder; None when nobody names one and this user has no home. `chosen`: the job's."""
    if chosen is not None:
        return Path(chosen).expanduser()
    home = cache_home()
    return None if home is None else home / "dougong"


def why_unwritable(place: Path | None) -> str | None:
    """Why nothing can be kept there, in words; None when something can. A file is made there for a
    moment: permissions do not tell, since root passes them, in /proc too."""
    if place is None:
        return "no place for the cache: this user has no home directory"
    nearest = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{place}: the cache cannot be written: {nearest} is not a directory"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{place}: the cache cannot be written: {nearest} is read-only for this user"
    try:
        tempfile.TemporaryFile(dir=nearest, prefix=".dougong-").close()
    except OSError as error:
        return f"{place}: the cache cannot be written: {nearest}: {error.strerror}"
    return None
