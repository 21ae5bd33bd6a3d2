"""The only module that touches `os.environ`. Everything else is handed values."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dougong.accelerators.facts import Default, Refused

_NO_FOREIGN_CODE = {
    "USE_HUB_KERNELS": "NO",  # transformers: kernels fetched from a hub in place of its own lines
    "TRUST_REMOTE_CODE": "0",
    "HF_DATASETS_TRUST_REMOTE_CODE": "0",
}
"""Whatever a user's shell says: no library of a run fetches code and runs it."""
_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for what `ray job submit` starts."""


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for a child, with `changes`.

    The child can import what this process can import.
    """
    paths = [path or os.getcwd() for path in sys.path]
    return {
        **os.environ,
        **changes,
        **_NO_FOREIGN_CODE,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
    }


def refuse_foreign_code() -> None:
    """Before this process loads transformers: see `_NO_FOREIGN_CODE`."""
    os.environ.update(_NO_FOREIGN_CODE)


def chosen_compiler() -> list[str]:
    """The words by which the C++ compiler is called: the user's, such as `ccache g++`, else the
    system's own. One word where a program has all of it as its name."""
    said = os.environ.get("CXX", "")
    return [said] if shutil.which(said) else said.split() or ["c++"]


def compiling_environment(folder: Path, tools: Path) -> dict[str, str]:
    """Of a child that compiles one of DeepSpeed's libraries, in `folder`. `tools`: where ninja may
    lie, though no environment is active.

    torch's builder takes CXX for one program's name: where it is several words, a script in
    `folder` says them.
    """
    path = os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)])
    changes = {"PATH": path, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(folder)}
    words = chosen_compiler()
    if len(words) > 1:
        script = folder / "cxx"
        script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        script.chmod(0o755)
        changes["CXX"] = str(script)
    return child_environment({**changes, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})


def read_visible_devices(variable: str) -> str | None:
    """What the vendor's variable (such as CUDA_VISIBLE_DEVICES) restricts this process to.

    None: nothing is said.
    """
    return os.environ.get(variable)


def show_devices(variables: Sequence[str]) -> None:
    """Forget those of these vendors' variables that hide all devices from this process: Ray sets
    them where it was asked for none."""
    for variable in variables:
        if os.environ.get(variable) == "":
            del os.environ[variable]


def home_folder() -> Path | None:
    """The user's home; None for a user without one, as in many containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_home() -> Path | None:
    """Where programs of this user keep what can be made anew (XDG base directories: a relative path
    is passed over); None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named
    home = home_folder()
    return None if home is None else home / ".cache"


def arithmetic_variables(prefixes: Sequence[str]) -> dict[str, str]:
    """This process's variables that can change a kernel's bits: threads, math libraries,
    deterministic switches.

    `prefixes`: how their names begin; each accelerator knows those of its libraries.
    """
    names = [name for name in sorted(os.environ) if name.startswith(tuple(prefixes))]
    return {name: os.environ[name] for name in names}


def network_variables(native: Mapping[str, str]) -> dict[str, str]:
    """What workers find in their environment for the network, as far as the user has said nothing.

    `native`: the variable in which an island's own library reads its interface, with the one that
    leads to the controller, where it has one. Left alone, such a library takes the first interface
    that it finds. Names are asked for here and there in libraries, though hardly any is needed: a
    name server that is dead must not hold a worker up each time.
    """
    variables = {"RES_OPTIONS": "timeout:1 attempts:1", **native}
    return {key: value for key, value in variables.items() if key not in os.environ}


def default_variables(defaults: Sequence[Default]) -> dict[str, str]:
    """Those of an accelerator's that apply here: of which the user has said nothing."""
    return {one.variable: one.value for one in defaults if one.applies(os.environ)}


def refused_variables(refused: Sequence[Refused]) -> list[Refused]:
    """Those that are set here to the value that is refused."""
    return [one for one in refused if os.environ.get(one.variable) == one.value]


def chosen_interface() -> str | None:
    """The network interface that the user has chosen for workers, the first of several; None:
    none."""
    return os.environ.get("GLOO_SOCKET_IFNAME", "").partition(",")[0] or None


def default_ports() -> str | None:
    """What DOUGONG_PORTS says: the ports of a job that names none."""
    return os.environ.get("DOUGONG_PORTS") or None


def ray_has_token() -> bool:
    """Whether a Ray token can be found in the places where Ray looks for it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path, home = os.environ.get("RAY_AUTH_TOKEN_PATH"), home_folder()
    if path:
        return Path(path).is_file()
    return home is not None and (home / ".ray" / "auth_token").is_file()


def ray_wants_token() -> bool:
    """Whether RAY_AUTH_MODE says that Ray's processes prove themselves by a token."""
    return os.environ.get("RAY_AUTH_MODE", "").strip().lower() == "token"


def named_ray_address() -> str:
    """What RAY_ADDRESS says: a cluster that a user's shell, or Ray itself within a submitted job,
    has named; empty where nothing is said."""
    return os.environ.get("RAY_ADDRESS", "").strip()


def is_submitted_to_ray() -> bool:
    """Whether this process is what `ray job submit` has started on a cluster."""
    return _RAY_JOB in os.environ


def ray_variables(embedded: bool) -> dict[str, str | None]:
    """What Ray's processes that we start, and our own Ray client, find in their environment; None:
    it is not set there.

    Nothing that the user has set is overridden, but that an embedded Ray is to know no other: what
    a submitted job hands on to its drivers (such as files in another cluster's store) is not for
    it. It gets a token of its own that no file keeps. Without RAY_AUTH_MODE a client of a cluster
    with a token retries for 20 s and dies, so it is set when a token is there.
    """
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
    }
    if embedded:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # Ray's own word for a system on which it is never a cluster's: all of it listens on the
        # loopback alone, in the place of every interface.
        variables |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    elif ray_has_token():
        variables |= {"RAY_AUTH_MODE": "token"}
    new = {key: value for key, value in variables.items() if key not in os.environ}
    not_ours = dict.fromkeys(("RAY_ADDRESS", _RAY_JOB)) if embedded else {}
    return {**new, **not_ours}


@contextlib.contextmanager
def temporary_variables(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables for this process and the children it starts inside; None takes one away.

    What was there before is put back.
    """
    before = {key: os.environ[key] for key in changes if key in os.environ}
    for key, value in changes.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    try:
        yield
    finally:
        for key in changes:
            os.environ.pop(key, None)
        os.environ.update(before)
