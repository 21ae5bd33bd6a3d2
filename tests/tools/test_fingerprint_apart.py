"""A fingerprint from a process of its own."""

from __future__ import annotations

import pytest
from dougong.errors import DeviceError
from dougong.fingerprint.cache import Probing
from dougong.tools.fingerprint_apart import ProbeRequest, measure_apart


def test_a_request_reads_back() -> None:
    request = ProbeRequest("cuda", 3, '{"job": "x"}')
    assert ProbeRequest.from_json(request.to_json()) == request


def test_it_has_a_worker_s_environment_not_the_shell_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = measure_apart(Probing("cpu"), 2)
    assert (found.environment["threads"], found.environment["$OMP_NUM_THREADS"]) == ("2", "2")


def test_what_ends_the_process_is_raised_here() -> None:
    with pytest.raises(DeviceError, match="^accelerator npu: "):
        measure_apart(Probing("npu"), 1)
