"""Which bridges a job may name: `auto`, the host's, and those that installed packages offer. Loads
no package."""

from __future__ import annotations

from importlib.metadata import entry_points

AUTO, HOST = "auto", "host"
GROUP = "dougong.bridges"
"""Of packages' entry points."""


def bridge_names() -> tuple[str, ...]:
    """All of them."""
    offered = {point.name for point in entry_points(group=GROUP)}
    return (AUTO, HOST, *sorted(offered - {AUTO, HOST}))
