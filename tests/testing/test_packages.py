"""Which packages are installed, by whom, and what is said where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dougong.testing.packages import LEFT_OUT, Advice, advise, main


@pytest.mark.parametrize(("is_root", "has_apt"), [(True, True), (False, True), (True, False), (False, False)])
def test_nothing_is_done_where_nothing_is_missing(is_root: bool, has_apt: bool) -> None:
    assert advise([], is_root, has_apt) == Advice()


def test_root_with_apt_get_installs_what_is_missing_and_only_that() -> None:
    update, install = advise(["iptables"], True, True).commands
    assert update[:2] == ("apt-get", "update")
    assert install[:2] == ("apt-get", "install") and "--yes" in install and install[-1] == "iptables"


def test_others_are_told_in_one_line() -> None:
    said = advise(["iproute2", "iptables"], False, True)
    assert said == Advice((), f"{LEFT_OUT}; to have them: sudo apt-get install iproute2 iptables")
    assert "as root, iptables" in advise(["iptables"], True, False).sentence


def fake_apt(folder: Path, script: str) -> Path:
    """An apt-get that writes down how it was called, and `script`."""
    (folder / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n')
    (folder / "apt-get").chmod(0o755)
    return folder / "calls"


def test_the_program_installs_once_and_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a machine without any of the tools, whose apt-get installs nothing that helps."""
    calls = fake_apt(tmp_path, "echo noise")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    main()
    update, install = calls.read_text().splitlines()
    assert update == "update -qq"
    assert install.endswith("coreutils iproute2 iptables mount procps util-linux")
    said = capfd.readouterr().out
    assert said.count("\n") == 1 and said.startswith(f"{LEFT_OUT}: a lab needs ip, tc") and "noise" not in said


def test_an_apt_get_that_fails_is_quoted_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = fake_apt(tmp_path, "echo first >&2; echo 'E: no network' >&2; exit 100")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    main()
    assert calls.read_text() == "update -qq\n"
    assert capfd.readouterr().out == f"{LEFT_OUT}: `apt-get update -qq`: E: no network\n"
