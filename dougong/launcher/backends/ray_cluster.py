"""Agents as Ray actors in one placement group: a bundle for each island and node. Ray places them
and no more.

After the start nothing here is on the way of a message or of a recovery; it is asked again only
when a whole agent is lost. Ray is imported when the backend opens.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from dougong.accelerators.registry import accelerator_names, get_accelerator
from dougong.control.environment import ray_variables, temporary_variables
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.agent import serve_run
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import SettingsOf
from dougong.launcher.backends.ray_choice import LOCAL, OWN_RAY, RayChoice
from dougong.launcher.backends.ray_folder import make_folder, remove_folder
from dougong.launcher.backends.ray_head import check_head, find_head
from dougong.launcher.backends.ray_log import logging_into, raw_lines_into
from dougong.launcher.backends.reaper import ended_with_us
from dougong.planner.placement import AgentSpec, Node
from dougong.records.events import Phase

CPU_SHARE = 0.01
"""What an agent asks of Ray's count of processors: next to nothing, since workers of a cpu island
share the machine."""
OBJECT_STORE_BYTES = 80_000_000


class AgentActor:
    """The Ray actor: an `Agent` served in its own thread of control until the run ends."""

    def serve(self, settings_json: str) -> None:
        """Returns when the agent has ended and none of its processes is left."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        ended_by_controller = serve_run(AgentSettings.from_json(settings_json), node)
        if not ended_by_controller:
            # The controller is gone, perhaps its Ray too: an actor's own way out would wait for
            # that.
            os._exit(1)


class RayBackend:
    """`choice`: a cluster, or a Ray of this run alone on this machine. `log`: the file within the
    run's logs where Ray's own lines go; None: they are left alone."""

    phase: Phase = "Ray"
    shared_devices = False

    def __init__(
        self, choice: RayChoice = OWN_RAY, deadlines: Deadlines = DEADLINES, log: Path | None = None
    ) -> None:
        self._choice = choice
        self._log = log
        self._deadlines = deadlines
        self._stack = contextlib.ExitStack()
        self._actors: dict[str, Any] = {}
        self._serving: dict[str, Any] = {}
        self._bundles: dict[str, int] = {}
        self._group: Any = None
        self._ray: Any = None

    def open(self) -> str:
        """Start or join Ray. LaunchError in bounded time when the cluster is not there."""
        if self._choice.address is not None:
            return self._join()
        return self._begin()

    def _join(self) -> str:
        find_head(self._choice, self._deadlines)
        self._prepare(ray_variables(embedded=False))
        run = self._log.parent.parent if self._log is not None else None
        check_head(self._choice, self._deadlines, run)
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
        """The cluster's living nodes, and how many devices of each kind they have in all."""
        return [self._node(raw, kinds) for raw in self._ray.nodes() if raw["Alive"]]

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf) -> None:
        """One placement group for all agents: all of them find room, or none starts."""
        bundles = [bundle_of(spec) for spec in specs]
        selectors = [{"ray.io/node-id": spec.node} if spec.node else {} for spec in specs]
        pins = {"bundle_label_selector": selectors} if any(selectors) else {}
        self._group = self._ray.util.placement_group(bundles, strategy="PACK", **pins)
        self._await_group(specs, bundles)
        for index, spec in enumerate(specs):
            self._bundles[spec.name] = index
            self.restart(spec, settings_of)

    def restart(self, spec: AgentSpec, settings_of: SettingsOf) -> None:
        """Start an actor in the agent's bundle; Ray moves the bundle first if its node has died."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if spec.name in self._actors:
            # Lost may mean cut off, not dead: it must not keep the bundle.
            self._ray.kill(self._actors[spec.name], no_restart=True)
        place = PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=self._bundles[spec.name]
        )
        needs = bundle_of(spec)
        actor_class = self._ray.remote(AgentActor).options(
            num_cpus=needs.pop("CPU"),
            num_gpus=needs.pop("GPU", 0),
            resources=needs,
            max_restarts=0,
            scheduling_strategy=place,
        )
        actor = actor_class.remote()
        self._actors[spec.name] = actor
        self._serving[spec.name] = actor.serve.remote(settings_of(spec).to_json())

    def why_ended(self, name: str) -> str | None:
        """What Ray knows of an agent's end; None when it serves, or has not been started."""
        reference = self._serving.get(name)
        if reference is None:
            return None
        done, _ = self._ray.wait([reference], timeout=self._deadlines.exit_status_s)
        if not done:
            return None
        try:
            self._ray.get(reference)
        except Exception as error:  # whatever the actor raised is the answer
            return _first_line(error)
        return "it ended by itself"

    def close(self) -> None:
        """Wait shortly for the agents to end by themselves, then let go of Ray (an embedded one
        ends)."""
        if self._ray is not None and self._ray.is_initialized():
            serving = list(self._serving.values())
            if serving:
                limit_s = self._deadlines.agent_end_s
                self._ray.wait(serving, num_returns=len(serving), timeout=limit_s)
            if self._group is not None:
                self._ray.util.remove_placement_group(self._group)
            self._ray.shutdown()
        self._stack.close()

    def _node(self, raw: Mapping[str, Any], kinds: Sequence[str]) -> Node:
        resources, address = raw["Resources"], raw["NodeManagerAddress"]
        devices = {}
        for kind in kinds:
            resource = get_accelerator(kind).resource
            if resource:
                devices[kind] = int(resources.get(resource, 0))
        return Node(
            id=raw["NodeID"],
            name=str(raw.get("NodeManagerHostname") or address),
            address=address,
            devices=devices,
            labels={str(key): str(value) for key, value in (raw.get("Labels") or {}).items()},
            given_name=str(raw.get("NodeName") or ""),
        )

    def _await_group(self, specs: Sequence[AgentSpec], bundles: Sequence[dict[str, float]]) -> None:
        deadline = time.monotonic() + self._deadlines.placement_s
        while not self._group.wait(timeout_seconds=self._deadlines.placement_poll_s):
            if time.monotonic() > deadline:
                raise LaunchError(self._no_room(specs, bundles))

    def _no_room(self, specs: Sequence[AgentSpec], bundles: Sequence[dict[str, float]]) -> str:
        asked = []
        for spec, bundle in zip(specs, bundles, strict=True):
            asked.append(f"{spec.name}: {_words(bundle)}")
        have = []
        for node in self._ray.nodes():
            if node["Alive"]:
                have.append(f"{node['NodeManagerAddress']}: {_words(node['Resources'])}")
        limit = self._deadlines.words("placement_s")
        return (
            f"the cluster found no room within {limit}; asked: {', '.join(asked)}; the nodes have "
            f"in all: {'; '.join(have)}; free what other jobs hold (`ray status`), or lower "
            "islands.*.workers"
        )


def bundle_of(spec: AgentSpec) -> dict[str, float]:
    """What Ray is asked for on behalf of one agent: a device for each worker, and hardly any
    processor."""
    resource = get_accelerator(spec.accelerator).resource
    bundle = {"CPU": CPU_SHARE}
    return bundle | {resource: float(spec.num_workers)} if resource else bundle


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


def _words(resources: Mapping[str, float]) -> str:
    """A bundle or a node's resources for an error, without Ray's own marks of nodes."""
    known = {"CPU", *(get_accelerator(name).resource for name in accelerator_names())}
    words = [f"{value:g} {key}" for key, value in sorted(resources.items()) if key in known]
    return ", ".join(words) or "nothing"


def _first_line(error: BaseException) -> str:
    """The line that says what happened: Ray colours a remote traceback and puts it last there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].startswith("\x1b") else lines[0]
