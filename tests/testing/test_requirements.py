"""What is missing for a lab is one sentence that says what to type."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dougong.testing import Lab, LabError
from dougong.testing.requirements import TOOLS, missing_packages, what_is_missing


@pytest.mark.lab
def test_nothing_is_missing_where_labs_are_tested() -> None:
    assert what_is_missing() is None
    assert missing_packages() == []


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in TOOLS:
        if not tool.startswith("ip"):
            (tmp_path / tool).write_text("#!/bin/sh\n")
            (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_packages() == ["iproute2", "iptables"]
    said = what_is_missing()
    assert said is not None
    assert "`apt-get install iproute2 iptables`" in said and "iptables, ip6tables" in said and "\n" not in said
    with pytest.raises(LabError, match="apt-get install iproute2 iptables"):
        Lab(num_hosts=1)


def test_a_machine_that_refuses_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`unshare` in a container without rights."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho unshare: unshare failed: Operation not permitted >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: f"{tmp_path}/{tool}")
    said = what_is_missing()
    assert said is not None
    assert "Operation not permitted; in a container, start it with `--privileged`" in said


def test_without_root_sudo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    said = what_is_missing()
    assert said is not None and "root" in said and "sudo" in said
