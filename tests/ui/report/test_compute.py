"""How much a run computes, from its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dougong.records.events import AgentsStarted, ModelInspected, StartedAgent
from dougong.ui.history import History, read_history
from dougong.ui.report.compute import compute_words
from tests.ui.recorded import Recorder


def recorded(folder: Path, accelerator: str, device: str, **model: object) -> History:
    """Two steps of 1,000,000 tokens/s on two devices."""
    recorder = Recorder(folder / "run")
    recorder.start()
    for step in (1, 2):
        recorder.run.append_metrics({**recorder.row(1, step), "tokens_per_s": 1e6})
    agent = StartedAgent(island="east", node="forge", accelerator=accelerator, device=device)
    inspected = ModelInspected(generation=1, family="qwen3_moe", parameters=9, experts=4, **model)
    history = read_history(recorder.run)
    return replace(history, events=[*history.events, AgentsStarted(generation=1, agents=(agent,)), inspected])


@pytest.mark.parametrize(
    ("accelerator", "device", "precision", "words"),
    [
        (
            "cuda",
            "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3",
            "bfloat16",
            "150 TFLOP/s a device, 15.2 % of the peak",
        ),
        ("cuda", "NVIDIA H100 80GB HBM3", "float32", "150 TFLOP/s a device, 224.2 % of the peak"),
        ("cuda", "NVIDIA Z9", "bfloat16", "150 TFLOP/s a device"),
        ("cpu", "Example CPU", "float32", "150 TFLOP/s a device"),
        ("no-such-package", "one", "float32", "150 TFLOP/s a device"),
    ],
)
def test_operations_are_held_against_the_peak_where_it_is_known(
    accelerator: str, device: str, precision: str, words: str, tmp_path: Path
) -> None:
    history = recorded(tmp_path, accelerator, device, active_parameters=50_000_000, precision=precision)
    assert compute_words(history) == words


def test_few_operations_are_told_in_smaller_units(tmp_path: Path) -> None:
    assert compute_words(recorded(tmp_path, "cpu", "", active_parameters=1000)) == "3 GFLOP/s a device"


def test_an_older_record_tells_nothing(tmp_path: Path) -> None:
    assert compute_words(recorded(tmp_path, "cuda", "H100")) == ""
