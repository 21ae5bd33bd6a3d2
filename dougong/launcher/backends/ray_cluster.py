"""A Ray cluster, or a Ray of this run alone: reached or started, its nodes listed, agents started
there (`ray_agents.py`). Ray is imported when the backend opens."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from dougong.control.environment import ray_variables, temporary_variables
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.backends.ray_agents import RayAgents
from dougong.launcher.backends.ray_choice import LOCAL, OWN_RAY, RayChoice
from dougong.launcher.backends.ray_folder import make_folder, remove_folder
from dougong.launcher.backends.ray_head import (
    check_head,
    find_head,
    forget_token,
    is_open,
    refuse_missing_token,
)
from dougong.launcher.backends.ray_log import logging_into, raw_lines_into
from dougong.launcher.backends.ray_nodes import cluster_nodes
from dougong.launcher.backends.reaper import ended_with_us
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase

OBJECT_STORE_BYTES = 80_000_000


class RayBackend:
    """`choice`: a cluster, or a Ray of this run alone on this machine. `run_dir`: in whose logs
    Ray's own lines go; None: they are left alone."""

    phase: Phase = "Ray"
    shared_devices = False

    @property
    def may_grow(self) -> bool:
        return self._choice.address is not None

    def __init__(
        self,
        choice: RayChoice = OWN_RAY,
        deadlines: Deadlines = DEADLINES,
        run_dir: RunDir | None = None,
    ) -> None:
        self._choice = choice
        self._run_dir = run_dir
        self._log = None if run_dir is None else run_dir.logs / "ray.log"
        self._deadlines = deadlines
        self._stack = contextlib.ExitStack()
        self._agents = RayAgents(deadlines, run_dir)
        self._turn = threading.Lock()
        self._ray: Any = None
        self.is_open_cluster = False  # asks nobody for a token; known when it is joined

    def open(self) -> str:
        """Start or join Ray. LaunchError in bounded time when the cluster is not there."""
        if self._choice.address is not None:
            return self._join()
        return self._begin()

    def _join(self) -> str:
        find_head(self._choice, self._deadlines)
        refuse_missing_token(self._choice)
        self._prepare(ray_variables(embedded=False))
        run = None if self._run_dir is None else self._run_dir.path
        check_head(self._choice, self._deadlines, run)
        self.is_open_cluster = is_open(self._choice, self._deadlines)
        self._init({"address": self._choice.address})
        return str(self._ray.util.get_node_ip_address())

    def _begin(self) -> str:
        self._prepare(ray_variables(embedded=True))
        folder = make_folder()
        self._init({**_own_ray(), "_temp_dir": str(folder)})
        # What a Ray that does not come up has written is kept.
        self._stack.callback(remove_folder, folder)
        self._stack.enter_context(ended_with_us(_raylet_helpers(), self._deadlines, folder))
        return "127.0.0.1"

    def _prepare(self, variables: Mapping[str, str | None]) -> None:
        self._stack.enter_context(temporary_variables(variables))
        # The screen is the run's; Ray's own logs lie in its session.
        self._stack.enter_context(raw_lines_into(self._log))
        self._ray = _import_ray()
        forget_token()
        self._stack.enter_context(logging_into(self._log))

    def _init(self, options: Mapping[str, Any]) -> None:
        try:
            level = logging.getLogger("ray").level  # as it is: Ray would set its own
            self._ray.init(**options, log_to_driver=False, logging_level=level)
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            place = self._choice.address or "this machine"
            more = f"; Ray's own lines: {self._log}" if self._log is not None else ""
            raise LaunchError(
                f"Ray on {place}: {_first_line(error)}; see `ray status`, or use --no-ray{more}"
            ) from error

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        with self._turn:
            self._refuse_silence()
            return cluster_nodes(kinds, self._deadlines, self._agents.groups)

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        with self._turn:
            self._refuse_silence()
            self._agents.start(specs, settings_of, tell)

    def end(self, names: Sequence[str]) -> None:
        with self._turn:
            self._agents.let_go(names)
            if self.head_answers():  # else Ray is told when it does
                self._agents.give_back()

    def ended(self) -> dict[str, str]:
        with self._turn:
            return self._agents.ended()

    def hand_over(self) -> None:
        """As `LastingBackend.hand_over`."""
        with self._turn:
            self._agents.hand_over()

    def _refuse_silence(self) -> None:
        """LaunchError when the cluster's head does not answer: Ray's own calls would wait for it
        for a minute."""
        if self._choice.address is not None:
            find_head(self._choice, self._deadlines)

    def head_answers(self) -> bool:
        """Whether a cluster's does; that of a Ray of our own is not asked."""
        try:
            self._refuse_silence()
        except LaunchError:
            return False
        return True

    def how_ended(self, name: str) -> str:
        return ""  # its node may be any: what Ray knows of it comes later

    def close(self) -> None:
        """Wait shortly for the agents to end by themselves, then let go of Ray (an embedded one
        ends)."""
        self._agents.stop_waiting()
        # What the backend's thread is at ends first: Ray must not go away under it.
        self._turn.acquire(timeout=self._deadlines.agent_end_s)
        with self._stack:
            if self._ray is not None and self._ray.is_initialized():
                self._let_go_of_ray()

    def _let_go_of_ray(self) -> None:
        # A cluster that is gone holds nothing of ours, and says so in many ways; how the run has
        # ended is known already.
        with contextlib.suppress(Exception):
            self._agents.await_ends()
        if self.head_answers():
            with contextlib.suppress(Exception):
                self._agents.give_all_back()
            self._ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise LaunchError(
            "Ray is not installed; `pip install ray`, or run on this machine by --no-ray"
        ) from error
    return ray


def _own_ray() -> dict[str, Any]:
    """What `ray.init` is given for a Ray of our own. `local` never joins another that runs here."""
    return {
        "address": LOCAL,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": os.cpu_count(),
        "_node_ip_address": "127.0.0.1",
    }


def _raylet_helpers() -> list[int]:
    """The processes that our embedded raylet has started for itself; Ray ends everything else with
    the driver."""
    helpers: list[int] = []
    for child in psutil.Process().children():
        if child.name() == "raylet":
            helpers += [helper.pid for helper in child.children()]
    return helpers


def _first_line(error: BaseException) -> str:
    """The line that says what happened: Ray colours a remote traceback and puts it last there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].startswith("\x1b") else lines[0]
