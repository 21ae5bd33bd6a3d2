"""Packages that transformers takes up where they happen to be installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from dougong.models.build import build_on_meta
from dougong.models.library.fast_paths import FAST_PATHS, refuse_fast_paths
from tests.families import tiny_config

LOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.inventory import inspect_model
from tests.families import config_values

def answer(family, is_layout_free):
    try:
        inspect_model(Model(family=family, config=config_values(family)), None, None, is_layout_free)
    except ModelError as error:
        return str(error)
    return ""

found = {"other": answer("qwen3_moe", True), "off": answer("qwen3_next", False), "layout": answer("qwen3_next", True)}
import fla
print(json.dumps({**found, "asked": fla.asked}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | list[str]]:
    """What a process says in which such packages can be imported."""
    folder = tmp_path_factory.mktemp("packages")
    for name in FAST_PATHS:
        (folder / name).mkdir()
        text = "asked = []\ndef __getattr__(name):\n    asked.append(name)\n    raise AttributeError(name)\n"
        (folder / name / "__init__.py").write_text(text)
    words = [sys.executable, "-c", LOOK, str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    answers: dict[str, str | list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return answers


def test_a_family_that_would_take_up_an_installed_package_is_refused(found: dict[str, str]) -> None:
    assert "qwen3_next computes its linear attention by flash-linear-attention, causal-conv1d" in found["layout"]
    assert "pip uninstall flash-linear-attention causal-conv1d " in found["layout"]
    assert found["layout"].endswith("or set determinism: run or off")


def test_nothing_else_is_refused(found: dict[str, str]) -> None:
    assert found["other"] == "" and found["off"] == ""
    refuse_fast_paths(build_on_meta(tiny_config("qwen3_next")))


def test_transformers_takes_such_a_package_up_without_being_asked(found: dict[str, list[str]]) -> None:
    """What the refusal is for: where transformers no longer does, it has lost its reason."""
    assert any("gated_delta_rule" in name or name == "ops" for name in found["asked"])
