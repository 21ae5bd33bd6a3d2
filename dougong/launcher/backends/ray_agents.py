"""Agents as Ray actors, each in a placement group of its own. Ray places them and no more: after
the start nothing here is on the way of a message.

Ray must have been joined before anything here is called.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dougong.accelerators.registry import accelerator_names, get_accelerator
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.agent import serve_run
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.planner.placement import AgentSpec

CPU_SHARE = 0.01
"""What an agent asks of Ray's count of processors: next to nothing, since workers of a cpu island
share the machine."""


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


@dataclass(frozen=True)
class _Life:
    """An agent from one start to its end. `serving`: Ray's reference to what it returns."""

    group: Any
    actor: Any
    serving: Any


@dataclass
class RayAgents:
    """The agents of one run on the cluster that this process has joined."""

    deadlines: Deadlines
    _lives: dict[str, _Life] = field(default_factory=dict)
    _is_closing: threading.Event = field(default_factory=threading.Event)

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        """As `Backend.start`."""
        self.end([spec.name for spec in specs])
        groups = {spec.name: _placement_group(spec) for spec in specs}
        try:
            self._await_room(specs, groups, tell)
        except LaunchError:
            _remove(groups)
            raise
        for spec in specs:
            settings = settings_of(spec)
            self._lives[spec.name] = _begin(spec, groups[spec.name], settings)

    def end(self, names: Sequence[str]) -> None:
        """As `Backend.end`."""
        import ray

        for name in names:
            life = self._lives.pop(name, None)
            if life is not None:
                # Lost may mean cut off, not dead: it must not keep its place.
                ray.kill(life.actor, no_restart=True)
                _remove({name: life.group})

    def ended(self) -> dict[str, str]:
        """As `Backend.ended`."""
        import ray

        ended = {}
        for name, life in self._lives.items():
            done, _ = ray.wait([life.serving], timeout=0)
            if done:
                ended[name] = _why(life.serving)
        return ended

    def close(self) -> None:
        """Wait shortly for the agents to end by themselves, then give their places back."""
        import ray

        self._is_closing.set()
        serving = [life.serving for life in self._lives.values()]
        if serving:
            ray.wait(serving, num_returns=len(serving), timeout=self.deadlines.agent_end_s)
        _remove({name: life.group for name, life in self._lives.items()})

    def _await_room(
        self, specs: Sequence[AgentSpec], groups: Mapping[str, Any], tell: Tell
    ) -> None:
        begun_at = time.monotonic()
        while True:
            missing = [spec for spec in specs if not _has_room(groups[spec.name])]
            if not missing:
                return
            if self._is_closing.is_set():
                raise LaunchError("the run ends; nothing is waited for any more")
            if time.monotonic() - begun_at > self.deadlines.placement_s:
                raise LaunchError(self._no_room(missing))
            self._is_closing.wait(self.deadlines.poll_every_s)

    def _no_room(self, specs: Sequence[AgentSpec]) -> str:
        import ray

        asked = []
        for spec in specs:
            asked.append(f"{spec.name}: {_words(bundle_of(spec))}")
        have = []
        for node in ray.nodes():
            if node["Alive"]:
                have.append(f"{node['NodeManagerAddress']}: {_words(node['Resources'])}")
        limit = self.deadlines.words("placement_s")
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


def _placement_group(spec: AgentSpec) -> Any:
    import ray

    pin = {"bundle_label_selector": [{"ray.io/node-id": spec.node}]} if spec.node else {}
    return ray.util.placement_group([bundle_of(spec)], strategy="PACK", **pin)


def _has_room(group: Any) -> bool:
    return bool(group.wait(timeout_seconds=0))


def _remove(groups: Mapping[str, Any]) -> None:
    import ray

    for group in groups.values():
        ray.util.remove_placement_group(group)


def _begin(spec: AgentSpec, group: Any, settings: AgentSettings) -> _Life:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = bundle_of(spec)
    actor_class: Any = ray.remote(AgentActor).options(
        num_cpus=needs.pop("CPU"),
        num_gpus=needs.pop("GPU", 0),
        resources=needs,
        max_restarts=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
    )
    actor = actor_class.remote()
    return _Life(group, actor, actor.serve.remote(settings.to_json()))


def _why(serving: Any) -> str:
    import ray

    try:
        ray.get(serving)
    except Exception as error:  # whatever the actor raised is the answer
        return _first_line(error)
    return "it ended by itself"


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
