"""Values and events in words."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.ui import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0042, "4 ms"), (0.123, "0.12 s"), (4.2, "4.2 s"), (42.4, "42 s"), (65, "1:05"), (7389, "2:03:09"),
     (3 * 86400 + 4 * 3600 + 300, "3 d 04:05"), (float("nan"), "?"), (float("inf"), "?"), (-1, "0 ms")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (8012, "8,012"), (999_999, "999,999"), (1_234_567, "1.23 M"), (4.5e9, "4.50 B"), (2e12, "2.00 T"),
     (float("nan"), "nan")],
)  # fmt: skip
def test_count(number: float, text: str) -> None:
    assert formatting.count(number) == text


@pytest.mark.parametrize(("number", "text"), [(812, "812 B"), (3.4 * 2**20, "3.4 MiB"), (5 * 2**40, "5.0 TiB")])
def test_size(number: float, text: str) -> None:
    assert formatting.size(number) == text


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([3, 1, 2], "1-3"), ([0, 1, 5, 8, 9], "0-1, 5, 8-9")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert formatting.ranges(numbers) == text


def test_worker_list() -> None:
    names = ["east/10", "east/9", "west/1", "east/0", "driver", "east/1"]
    assert formatting.worker_list(names) == "east/0-1, east/9-10, west/1, driver"


EVENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "created", "job": "tiny", "generation": 1}, "info", "job tiny"),
    ({"kind": "created", "job": "tiny", "generation": 3}, "info", "resumed: job tiny"),
    ({"kind": "agents_started", "agents": [{"node": "a"}, {"node": "b"}]}, "info", "2 agents on a, b"),
    ({"kind": "agents_started", "agents": 2}, "info", "agents started · agents 2"),
    ({"kind": "inspected", "family": "qwen3_moe", "parameters": 3_300_000, "experts": 16}, "info",
     "model qwen3_moe: 3.30 M parameters, 16 experts"),
    ({"kind": "fingerprints", "classes": {"east/0": "aa", "west/0": "bb", "east/1": "aa"}, "seconds": 1}, "info",
     "arithmetic: class aa on east/0-1, class bb on west/0"),
    ({"kind": "planned", "workers": 2, "lanes": 4}, "info", "plan: 2 workers, 4 lanes"),
    ({"kind": "planned", "seconds": 2}, "info", "planned · seconds 2"),
    ({"kind": "generation_started", "workers": ["east/0", "east/1"], "resume": "/r/checkpoints/step-000020"}, "info",
     "generation 2 starts from step-000020 with 2 workers [east/0-1]"),
    ({"kind": "generation_started"}, "info", "generation 2 starts from the beginning"),
    ({"kind": "first_step", "step": 21}, "good", "training again at step 21"),
    ({"kind": "first_step", "step": 1, "generation": 1}, "quiet", "first step: 1"),
    ({"kind": "drill", "worker": "east/1", "step": 30, "action": "kill"}, "warning",
     "drill: kill east/1 as step 30 begins"),
    ({"kind": "worker_died", "worker": "east/1", "class": "crash", "cause": "signal 9 (SIGKILL)"}, "error",
     "worker east/1 died: crash: signal 9 (SIGKILL)"),
    ({"kind": "worker_died", "worker": "east/1", "class": "out_of_memory", "cause": "out of memory: 20 GiB"}, "error",
     "worker east/1 died: out of memory: 20 GiB"),
    ({"kind": "worker_died", "worker": "east/1"}, "error", "worker east/1 died: cause unknown"),
    ({"kind": "decision", "action": "new_generation", "reason": "1 of 3 restarts"}, "warning",
     "decision: new generation (1 of 3 restarts)"),
    ({"kind": "checkpoint_started", "step": 20}, "quiet", "checkpoint of step 20 begins"),
    ({"kind": "checkpoint_committed", "step": 20, "bytes": 2**20, "seconds": 0.5}, "good",
     "checkpoint of step 20 committed (1.0 MiB, 0.50 s)"),
    ({"kind": "checkpoint_rejected", "directory": "checkpoints/step-000040", "reason": "digest of a differs"}, "error",
     "checkpoint step-000040 rejected: digest of a differs"),
    ({"kind": "warning", "text": "slow", "workers": ["east/1", "east/0"]}, "warning", "[east/0-1] slow"),
    ({"kind": "state", "state": "RUNNING"}, "quiet", "state: running"),
    ({"kind": "finished", "step": 60}, "good", "finished at step 60"),
    ({"kind": "stopped", "step": 31}, "warning", "stopped at step 31"),
    ({"kind": "failed", "step": 31, "worker": "east/1", "cause": "boom"}, "error",
     "failed at step 31: east/1: boom"),
    ({"kind": "spare_promoted", "worker": "east/4", "after": None}, "info", "spare promoted · worker east/4"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "level", "text"), EVENTS)
def test_describe(event: dict[str, Any], level: str, text: str) -> None:
    assert formatting.describe({"generation": 2, **event}) == formatting.Sentence(level, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted({event["kind"] for event, _, _ in EVENTS} | {"diagnosis", "stop_requested"}))
def test_an_event_without_its_fields_still_has_words(kind: str) -> None:
    assert formatting.describe({"kind": kind, "generation": 1}).text
