"""Packages by which transformers computes linear attention where they are installed, without being
asked.

A family's code takes a kernel of such a package in place of its own lines as soon as the package
can be imported. Their backwards add with atomics, or choose kernels by trial, so that a job that
promises its bits is refused where one would be taken up.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from typing import Any

from dougong.errors import ModelError

FAST_PATHS = {
    "fla": "flash-linear-attention",
    "causal_conv1d": "causal-conv1d",
    "mamba_ssm": "mamba-ssm",
}
"""What is imported -> what pip calls it."""


def fast_paths_of(model: Any) -> tuple[str, ...]:
    """The packages of `FAST_PATHS` that the family's code would compute by, and that are installed
    here."""
    source = inspect.getsource(sys.modules[type(model).__module__])
    found = []
    for package in FAST_PATHS:
        # As a decorator's text, or in an import: `"fla"`, `from fla.ops import`.
        is_named = re.search(rf"[\"']{package}[\"']|\b(?:from|import) {package}\b", source)
        if is_named and importlib.util.find_spec(package) is not None:
            found.append(package)
    return tuple(found)


def refuse_fast_paths(model: Any) -> None:
    """ModelError where the model would compute by one of them."""
    packages = fast_paths_of(model)
    if not packages:
        return
    names = ", ".join(FAST_PATHS[package] for package in packages)
    family = getattr(model.config, "model_type", type(model).__name__)
    raise ModelError(
        f"model: {family} computes its linear attention by {names} where that is installed, and "
        "nothing has shown that its backward gives the same bits every time and on any layout; pip "
        f"uninstall {' '.join(FAST_PATHS[package] for package in packages)} (torch's own form then "
        "runs), or set determinism: run or off"
    )
