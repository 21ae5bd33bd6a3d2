"""transformers as workers have it, for other processes."""

from __future__ import annotations

import importlib

from dougong.accelerators.plugins import without_plugins


def load_transformers() -> None:
    """Import transformers' models, without the plug-in of any vendor.

    Where it finds Ascend's when it is imported, it changes masks of attention for all devices of
    the process. A worker's transformers never does (its fork server has imported it), so that what
    is looked at beside a run must not either. To be called before a device is opened.
    """
    with without_plugins():
        importlib.import_module("transformers.modeling_utils")
