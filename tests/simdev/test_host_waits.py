"""Every wait of the host for the device in a step of training stands here, by place and number. A new one is found by
this list, and has to be argued for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simdev import build

pytestmark = pytest.mark.simulated

ROOT = Path(__file__).resolve().parents[2]
LANES, MICROBATCHES = 2, 2
SITES = {"qwen3_moe": 3, "deepseek_v3": 2, "gpt_oss": 3}


def waits_of(family: str, recompute: str = "none") -> dict[str, int]:
    build.built()
    environment = {**os.environ, "SIMDEV_VENDOR": "sima", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.simdev.host_waits", family, recompute]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


def of_every_family(family: str) -> dict[str, int]:
    return {
        # How many rows go to whom: once for a layer and a micro-batch, whatever the number of lanes.
        "parallel/dispatch/crossing.py:plan_crossings copy to host": SITES[family] * MICROBATCHES,
        # The losses and the norms of a step, which it is decided by, once each.
        "training/step.py:forward_backward copy to host": 1,
        "training/step.py:_squares copy to host": 1,
        # Whether numbers are still those of their copies: messages once, the state before and after its update.
        "parallel/comm/tally.py:balance copy to host": 1,
        "training/integrity/held_state.py:sums copy to host": 2,
    }


PACKED = "elsewhere, transformers/masking_utils.py:find_packed_sequence_indices item"
"""The library's own code, once for a forward."""


@pytest.mark.parametrize("family", ["qwen3_moe", pytest.param("deepseek_v3", marks=pytest.mark.slow)])
def test_the_host_waits_in_these_places_alone(family: str) -> None:
    assert waits_of(family) == of_every_family(family) | {PACKED: LANES * MICROBATCHES}


def test_layers_that_run_again_wait_once_a_step() -> None:
    """For whether they came out the same."""
    found = waits_of("qwen3_moe", "layers")
    assert found.pop("parallel/segments/repeats.py:refuse_others copy to host") == 1
    assert found == of_every_family("qwen3_moe") | {PACKED: LANES * MICROBATCHES}


@pytest.mark.slow
def test_experts_without_a_form_of_ours_wait_for_each_block_of_rows() -> None:
    """They run as the family has them, in transformers' loop over experts, which asks the host which have rows."""
    found = waits_of("gpt_oss")
    assert found.pop("ops/experts/reference.py:_run item") > 100
    found.pop(PACKED, None)
    assert found == of_every_family("gpt_oss")
