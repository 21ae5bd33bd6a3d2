"""Vendors' plug-ins for torch, kept out of a process that has opened no device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.registry import BUILT_IN


@contextlib.contextmanager
def without_plugins() -> Iterator[None]:
    """Inside, plug-ins that are not loaded yet are as good as not installed.

    Libraries import one as soon as it is there, to ask for devices. A fork server must not: what
    the vendor's library has begun survives no fork. Nor may a plug-in that is installed and broken
    end the workers of another device. Afterwards `Accelerator.open` loads the one that is meant.
    """
    kinds = [kind for kind in BUILT_IN if issubclass(kind, GenericAccelerator)]
    hidden = [kind.plugin for kind in kinds if kind.plugin and kind.plugin not in sys.modules]
    for module in hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # Python's own mark: not importable
    try:
        yield
    finally:
        for module in hidden:
            sys.modules.pop(module, None)
