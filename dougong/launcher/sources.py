"""What a run had read from outside its job file when it began, found again."""

from __future__ import annotations

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.control.run_sources import RunSources
from dougong.errors import CheckpointError
from dougong.records.directory import RunDir
from dougong.records.kept_sources import read_sources


def known_sources(run_dir: RunDir) -> RunSources | None:
    """The run's own record, else its newest checkpoint's; None where it did not come so far."""
    found = read_sources(run_dir)
    if found is not None:
        return found
    for place in list_committed(run_dir.checkpoints):
        try:
            stored = Manifest.load(place.path).metadata.get("sources")
        except CheckpointError:
            continue  # whoever looks for a checkpoint to go on from says so
        if stored is not None:
            return RunSources(**stored)
    return None
