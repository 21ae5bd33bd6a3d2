"""What a lab needs of its machine, and in one sentence what is missing and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from dougong.deadlines import DEADLINES

TOOLS: Mapping[str, str] = {
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "env": "coreutils",
    "setsid": "util-linux",
    "ps": "procps",
}
"""Each tool and the package of Debian and Ubuntu that holds it."""

# A lab in small: the namespaces, a bridge, a cable, a rule of each firewall.
_TRIAL = (
    "ip link add br0 type bridge && ip link add left type veth peer name right"
    " && iptables -A INPUT -j DROP && ip6tables -A INPUT -j DROP"
    " && env --ignore-signal=CHLD true"
    " && tc qdisc add dev left root tbf rate 8mbit burst 32k latency 200ms"
)


def missing_packages() -> list[str]:
    """Packages (Debian's names) of the tools that are not on the PATH."""
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})


def what_is_missing() -> str | None:
    """Why no lab can be made here, as one sentence with its remedy; None where one can."""
    if not sys.platform.startswith("linux"):
        return f"a lab needs Linux's namespaces, and this is {sys.platform}: use a Linux machine"
    packages = missing_packages()
    if packages:
        tools = ", ".join(tool for tool, package in TOOLS.items() if package in packages)
        return (
            f"a lab needs {tools}, which are not installed: as root, `apt-get install "
            f"{' '.join(packages)}` (or your system's packages of these names)"
        )
    if os.geteuid() != 0:
        return "a lab needs root, for namespaces and firewalls: run the command with sudo"
    return _refused_trial()


def _refused_trial() -> str | None:
    words = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "sh", "-c", _TRIAL]
    try:
        tried = subprocess.run(
            words, capture_output=True, text=True, timeout=DEADLINES.lab_host_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a lab cannot be made: `unshare` did not end within {DEADLINES.lab_host_s:g} s"
    if tried.returncode == 0:
        return None
    reason = " ".join(tried.stderr.split())
    return (
        f"a lab needs namespaces, a bridge and firewall rules, and this machine refuses: {reason}; "
        "in a container, start it with `--privileged`"
    )
