"""What this machine is."""

from __future__ import annotations

from importlib.metadata import version

from dougong.records.machine import PACKAGES, Machine, describe_machine, package_versions


def test_it_is_described_in_what_json_can_hold() -> None:
    machine = describe_machine()
    assert Machine.model_validate_json(machine.model_dump_json()) == machine
    assert machine.host
    assert machine.cores is not None and machine.cores >= 1
    assert machine.memory_bytes is not None and machine.memory_bytes > 0


def test_the_versions_that_can_change_a_runs_bits() -> None:
    assert set(PACKAGES) - set(package_versions()) == {"flash-attn"}, "which takes a GPU"
    assert package_versions()["torch"] == version("torch")
