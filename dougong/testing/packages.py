"""Installs the system's packages that a lab needs, where that is possible; says in one line what is
left out where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.control.environment import child_environment
from dougong.deadlines import DEADLINES
from dougong.testing.requirements import missing_packages, what_is_missing


@dataclass(frozen=True)
class Advice:
    """What to do about packages that are missing: commands to run now, or a sentence to print."""

    commands: tuple[tuple[str, ...], ...] = ()
    sentence: str = ""


def advise(missing: Sequence[str], is_root: bool, has_apt: bool) -> Advice:
    """Only root installs, only with apt-get, and only what is missing."""
    if not missing:
        return Advice()
    if is_root and has_apt:
        install = ("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing)
        return Advice((("apt-get", "update", "-qq"), install))
    names = " ".join(missing)
    if has_apt:
        return Advice(sentence=f"{LEFT_OUT}; to have them: sudo apt-get install {names}")
    return Advice(sentence=f"{LEFT_OUT}; to have them install, as root, {names} (Debian's names)")


LEFT_OUT = "tests with several hosts are left out"


def main() -> None:
    """Do what `advise` says. Prints nothing where a lab can be made, else one line; never fails,
    since everything but the lab works without it."""
    advice = advise(missing_packages(), os.geteuid() == 0, shutil.which("apt-get") is not None)
    trouble = advice.sentence or _first_failure(advice.commands) or what_is_missing()
    if trouble:
        print(trouble if trouble.startswith(LEFT_OUT) else f"{LEFT_OUT}: {trouble}")


def _first_failure(commands: Sequence[Sequence[str]]) -> str | None:
    """Run them in turn; the first that fails, in one line."""
    for words in commands:
        try:
            done = subprocess.run(
                words,
                env=child_environment({"DEBIAN_FRONTEND": "noninteractive"}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DEADLINES.packages_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"`{' '.join(words)}` has not ended within {DEADLINES.packages_s:g} s"
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return f"`{' '.join(words)}`: {said[-1] if said else f'exit status {done.returncode}'}"
    return None


if __name__ == "__main__":
    main()
