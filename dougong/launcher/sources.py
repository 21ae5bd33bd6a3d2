"""What a run had read from outside its job file when it began, found again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
    for said in _metadata(run_dir):
        stored = said.get("sources")
        if stored is not None:
            return RunSources(**stored)
    return None


def found_attention(run_dir: RunDir) -> str:
    """The form by which the run computes attention, where its job leaves that open: as the devices
    were found, or as transformers chose; empty where it did not come so far."""
    sources = known_sources(run_dir)
    if sources is not None and sources.attention:
        return sources.attention if sources.is_whole else ""
    recipes = (said.get("recipe") or {} for said in _metadata(run_dir))
    return next((recipe["attention"] for recipe in recipes if recipe.get("attention")), "")


def _metadata(run_dir: RunDir) -> Iterator[Mapping[str, Any]]:
    """What the run's checkpoints say of it, the newest first."""
    for place in list_committed(run_dir.checkpoints):
        try:
            yield Manifest.load(place.path).metadata
        except CheckpointError:
            continue  # whoever looks for a checkpoint to go on from says so
