"""Bits do not follow from where a slice begins, nor from how many rows there are: on a device that minds both."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dougong.ops.alignment import ALIGNMENT_BYTES, aligned, is_aligned, product_into

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("device_checks.py")


def names() -> list[str]:
    tree = ast.parse(CHECKS.read_text())
    lists = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS"]
    return [ast.unparse(name) for name in ast.walk(lists[0].value) if isinstance(name, ast.Name)]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    vendor = {"SIMDEV_VENDOR": "sima", "SIMDEV_MINDS_LAYOUT": "1"}
    environment = {**os.environ, **vendor, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.ops.device_checks"]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.simulated
@pytest.mark.parametrize("name", names())
def test_on_a_device_that_minds(name: str, results: dict[str, str]) -> None:
    assert not results[name], results[name]


def test_a_processor_copies_nothing() -> None:
    rows = torch.randn(9, 3)[1:]
    assert is_aligned(rows) and aligned(rows) is rows
    out = torch.empty(9, 2)[1:]
    weight = torch.randn(3, 2)
    product_into(rows, weight, out)
    assert torch.equal(out, rows @ weight)
    assert ALIGNMENT_BYTES == 512
