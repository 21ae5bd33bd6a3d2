"""Checks that need a process of a vendor's own, run together in one: their module lists them as `CHECKS` and ends with
`tell(CHECKS)`; its test names each of them, and reads here what has become of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600


def names_of(module: str) -> list[str]:
    """Of the checks of a module such as `tests.simdev.checks`, which is not imported: it belongs to a process of its
    own."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    lists = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS"]
    return [ast.unparse(name) for name in ast.walk(lists[0].value) if isinstance(name, ast.Name)]


def run(module: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What has become of each check: nothing, or its traceback."""
    words = [sys.executable, "-m", module]
    ended = subprocess.run(words, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def tell(checks: Sequence[Callable[[], None]]) -> None:
    """Do them one after another on the first device, and print what has become of each."""
    import torch

    torch.accelerator.set_device_index(0)
    results = {}
    for check in checks:
        try:
            check()
            results[check.__name__] = ""
        except Exception:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))
