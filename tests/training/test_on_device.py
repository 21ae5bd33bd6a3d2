"""The update, its state and its staging where the tensors lie on a device: one that is simulated."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simdev.accelerators import ROOT, offer

pytestmark = pytest.mark.simulated

CHECKS = Path(__file__).with_name("device_checks.py")


def names() -> list[str]:
    """Those in the list of checks; their module belongs to a process of its own."""
    tree = ast.parse(CHECKS.read_text())
    lists = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS"]
    return [ast.unparse(name) for name in ast.walk(lists[0].value) if isinstance(name, ast.Name)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    environment = offer(tmp_path_factory.mktemp("packages"))
    paths = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
    environment |= {"SIMDEV_VENDOR": "sima", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.training.device_checks"]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", names())
def test_the_update_of_a_device(name: str, results: dict[str, str]) -> None:
    assert not results[name], results[name]
