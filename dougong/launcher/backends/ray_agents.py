"""Agents as Ray actors, each on the node that its spec names, its devices held by a placement group
of its own. Ray places them and no more: after the start nothing here is on the way of a message.

Ray must have been joined before anything here is called.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import read_visible_devices
from dougong.deadlines import Deadlines
from dougong.errors import DougongError, LaunchError, NoRoomError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.kept.detached import DetachedAgent
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir

CPU_SHARE = 0.01
"""What an agent without devices asks of Ray's count of processors: next to nothing, since its
workers share the machine."""


class AgentActor:
    """The Ray actor: it starts an agent with the devices that Ray has given to it, and holds them
    as long as the agent lives, and the line to it. The agent outlives it where Ray is gone."""

    def __init__(self) -> None:
        self._agent: DetachedAgent | None = None

    def serve(self, settings_json: str) -> None:
        """Returns when the agent has ended and none of its processes is left."""
        self._agent = DetachedAgent(_placed_here(settings_json))
        end = self._agent.wait()
        if end.error:
            raise LaunchError(end.error)
        if not end.by_controller:
            # The controller is gone, perhaps its Ray too: an actor's own way out would wait for
            # that.
            os._exit(1)

    def go_on(self, settings_json: str, within_s: float) -> bool:
        """Have the agent serve the next controller, as `DetachedAgent.go_on`."""
        settings = _placed_here(settings_json)
        return self._agent is not None and self._agent.go_on(settings, within_s)

    def end(self) -> None:
        """Kill the agent, which may be stopped: Ray would end its actor alone."""
        if self._agent is not None:
            self._agent.kill()


def _placed_here(settings_json: str) -> AgentSettings:
    import ray

    node, settings = ray.get_runtime_context().get_node_id(), AgentSettings.from_json(settings_json)
    variable = get_accelerator(settings.accelerator).visible_devices_variable
    visible = read_visible_devices(variable) if variable else None
    return replace(settings, ray_node=node, visible=visible)


@dataclass(frozen=True)
class _ActorLife:
    """An agent from one start to its end. `serving`: Ray's reference to what it returns; `group`:
    the placement group that holds its devices, None where it has none."""

    spec: AgentSpec
    actor: Any
    serving: Any
    group: Any


class RayAgents:
    """The agents of one run on the cluster that this process has joined. `run_dir`: where its
    logs lie; None: whatever Ray says of an agent's end is shown, and kept nowhere."""

    def __init__(self, deadlines: Deadlines, run_dir: RunDir | None = None) -> None:
        self._deadlines = deadlines
        self._run_dir = run_dir
        self._lives: dict[str, _ActorLife] = {}
        self._handed_over: dict[str, _ActorLife] = {}  # an earlier controller's
        self._ended_lives: list[_ActorLife] = []  # what these hold is yet to be given back
        self._ends: dict[str, str] = {}
        self._is_closing = threading.Event()

    @property
    def groups(self) -> set[str]:
        """Ids of the placement groups that are this run's."""
        return {life.group.id.hex() for life in self._all if life.group is not None}

    @property
    def _all(self) -> list[_ActorLife]:
        return [*self._lives.values(), *self._handed_over.values(), *self._ended_lives]

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        """As `Backend.start`."""
        self.end([spec.name for spec in specs])
        groups: dict[str, Any] = {}
        try:
            self._take_over(specs, settings_of)
            self.give_back()  # what earlier agents held may be asked for now
            new_specs = [spec for spec in specs if spec.name not in self._lives]
            for spec in new_specs:
                if devices_asked(spec):
                    groups[spec.name] = _placement_group(spec)
            self._await_room(new_specs, groups, tell)
            share_of = _cpu_shares()
            for spec in new_specs:
                group, share = groups.get(spec.name), share_of(str(spec.node))
                self._lives[spec.name] = _begin(spec, group, share, settings_of(spec))
        except BaseException:  # whatever it is, what was reserved must not stay so
            begun = set(self._lives)
            _remove(group for name, group in groups.items() if name not in begun)
            self.end([spec.name for spec in specs])
            raise

    def hand_over(self) -> None:
        """As `LastingBackend.hand_over`."""
        self._handed_over |= self._lives
        self._lives, self._ends = {}, {}

    def _take_over(self, specs: Sequence[AgentSpec], settings_of: SettingsOf) -> None:
        """Of an earlier controller's agents, have those go on that wait and are to be what they
        were; the others are ended."""
        import ray

        wanted = {spec.name: spec for spec in specs}
        limit_s = self._deadlines.agent_waits_s
        asked = {}
        for name, life in self._handed_over.items():
            if wanted.get(name) == life.spec:
                settings = settings_of(life.spec).to_json()
                asked[life.actor.go_on.remote(settings, limit_s)] = name
        answers: list[Any] = []
        if asked:
            answer_s = limit_s + self._deadlines.exit_status_s
            answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=answer_s)
        for name in [asked[answer] for answer in answers if _is_true(answer)]:
            self._lives[name] = self._handed_over.pop(name)
        self._end_handed_over()

    def _end_handed_over(self) -> None:
        lives, self._handed_over = list(self._handed_over.values()), {}
        self._kill(lives)
        self._ended_lives += lives

    def end(self, names: Sequence[str]) -> None:
        """As `Backend.end`."""
        self.let_go(names)
        self.give_back()

    def let_go(self, names: Sequence[str]) -> None:
        """The part of `end` for which Ray's head is not needed."""
        lives = [self._lives.pop(name) for name in names if name in self._lives]
        for name in names:
            self._ends.pop(name, None)
        self._kill(lives)
        self._ended_lives += lives

    def give_back(self) -> None:
        """Give back to Ray what was held for agents that were let go."""
        import ray

        while self._ended_lives:
            life = self._ended_lives.pop()
            try:
                # Lost may mean cut off, not dead: it must not keep its place.
                ray.kill(life.actor, no_restart=True)
            finally:
                _remove([life.group])

    def ended(self) -> dict[str, str]:
        """As `Backend.ended`."""
        import ray

        names = {life.serving: name for name, life in self._lives.items()}
        if names:
            done, _ = ray.wait(list(names), num_returns=len(names), timeout=0, fetch_local=False)
            for serving in done:
                name = names[serving]
                if name not in self._ends:
                    self._ends[name] = self._why(name, serving)
        return dict(self._ends)

    def _kill(self, lives: Sequence[_ActorLife]) -> None:
        """Have agents killed that may be stopped, where Ray reaches them. One that is cut off ends
        by itself: it hears nothing from its controller."""
        import ray

        asked = [life.actor.end.remote() for life in lives]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=self._deadlines.exit_status_s)

    def stop_waiting(self) -> None:
        """From now on nothing waits for room. May be called from any thread."""
        self._is_closing.set()

    def await_ends(self) -> None:
        """Wait shortly for the agents to end by themselves; have those killed that do not."""
        import ray

        self._end_handed_over()
        lives = {life.serving: life for life in self._lives.values()}
        if lives:
            limit_s = self._deadlines.agent_end_s
            _, late = ray.wait(list(lives), num_returns=len(lives), timeout=limit_s)
            self._kill([lives[serving] for serving in late])

    def give_all_back(self) -> None:
        """Give the places of all agents back, which have ended."""
        _remove(life.group for life in self._all)

    def _await_room(
        self, specs: Sequence[AgentSpec], groups: Mapping[str, Any], tell: Tell
    ) -> None:
        """They were free a moment ago, so that little is waited for: Ray may yet hear of it that
        an actor has ended, or somebody else was quicker."""
        begun_at = time.monotonic()
        is_told = False
        missing = list(specs)
        while True:
            missing = [spec for spec in missing if not _has_room(groups.get(spec.name))]
            if not missing:
                return
            waited_s = time.monotonic() - begun_at
            if self._is_closing.is_set() or waited_s > self._deadlines.placement_s:
                asked = ", ".join(f"{spec.name}: {_words(spec)}" for spec in missing)
                waited = self._deadlines.words("placement_s")
                raise NoRoomError(
                    f"what was free on their nodes is not given by Ray within {waited}: {asked}; "
                    "another job may have been quicker (`ray status`)",
                    is_held=True,
                )
            if not is_told and waited_s > self._deadlines.poll_every_s:
                is_told = True
                tell(f"room that was free a moment ago: {', '.join(map(_words, missing))}")
            self._is_closing.wait(self._deadlines.placement_every_s)

    def _why(self, name: str, serving: Any) -> str:
        import ray

        try:
            ray.get(serving)
        except Exception as error:  # whatever the actor raised is the answer
            whole, last = plain_text(error), last_words(error)
            file = self._keep(name, whole) if whole != last else None
            return last if file is None else f"{last} (all of it: {file})"
        return "it ended by itself"

    def _keep(self, name: str, text: str) -> Path | None:
        """Where all of it stands: the file in which an agent without Ray prints."""
        if self._run_dir is None:
            return None
        file = self._run_dir.agent_log(name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as log:
                log.write(f"{text}\n")
        except OSError:  # the words matter more than where they stand
            return None
        return file


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PART_OF_DEVICE = 0.125
"""What Ray is asked for by agents whose workers share one: it gives the same one again while any is
left of it. So many islands can share one."""
_MISSING = "No module named 'dougong"


def plain_text(error: BaseException) -> str:
    """All that an actor's error says, without colours."""
    return _COLOURS.sub("", str(error)).strip()


def last_words(error: BaseException) -> str:
    """What an actor died of, in one line: an error of ours as it is, of any other the line that its
    traceback ends with."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, DougongError):
        return "; ".join(str(cause).splitlines())
    lines = [line.strip() for line in plain_text(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    if _MISSING in last:
        last += (
            "; install dougong on that machine for the Python with which its `ray start` was typed"
        )
    return last


def devices_asked(spec: AgentSpec) -> dict[str, float]:
    """What Ray is asked for on behalf of one agent: a device for each worker that it could have,
    and for those that it leaves out; a part of one for workers that share a device, so that other
    agents of the run get the same one; nothing for workers that share their machine."""
    resource = get_accelerator(spec.accelerator).resource
    if not resource:
        return {}
    if spec.shares_device and not spec.avoided:
        return {resource: PART_OF_DEVICE}
    return {resource: float(spec.num_devices + len(spec.avoided))}


def _words(spec: AgentSpec) -> str:
    asked = ", ".join(f"{count:g} {name}" for name, count in devices_asked(spec).items())
    return asked or "a process"


def _is_true(answer: Any) -> bool:
    """What an actor has answered; not so where it has failed."""
    import ray

    try:
        return bool(ray.get(answer))
    except Exception:  # Ray raises many
        return False


def _placement_group(spec: AgentSpec) -> Any:
    import ray

    pin = {"ray.io/node-id": spec.node}
    asked = [devices_asked(spec)]
    return ray.util.placement_group(asked, strategy="PACK", bundle_label_selector=[pin])


def _has_room(group: Any) -> bool:
    return group is None or bool(group.wait(timeout_seconds=0))


def _remove(groups: Iterable[Any]) -> None:
    import ray

    for group in groups:
        if group is not None:
            ray.util.remove_placement_group(group)


def _begin(spec: AgentSpec, group: Any, share: float, settings: AgentSettings) -> _ActorLife:
    import ray

    actor_class: Any = ray.remote(AgentActor)
    # Three calls at a time: an agent is told to go on, and ended, while it serves.
    options = {"max_restarts": 0, "max_concurrency": 3, **_placed(spec, group, share)}
    actor = actor_class.options(**options).remote()
    return _ActorLife(spec, actor, actor.serve.remote(settings.to_json()), group)


def _placed(spec: AgentSpec, group: Any, share: float) -> dict[str, Any]:
    """The actor's options: on its node, with its devices; `share`: of a processor, where it has
    none."""
    from ray.util.scheduling_strategies import (
        NodeAffinitySchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )

    if group is None:
        on_node = NodeAffinitySchedulingStrategy(str(spec.node), soft=False)
        return {"num_cpus": share, "scheduling_strategy": on_node}
    devices = devices_asked(spec)
    return {
        "num_cpus": 0,
        "num_gpus": devices.pop("GPU", 0),
        "resources": devices,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0
        ),
    }


def _cpu_shares() -> Callable[[str], float]:
    """By node, next to nothing, by which others see that there is an agent; nothing where Ray has
    no processor to give, since then the agent would never begin. Asked once for all nodes."""
    import ray

    free = ray._private.state.state.available_resources_per_node()

    def share_of(node: str) -> float:
        return CPU_SHARE if free.get(node, {}).get("CPU", 0.0) >= CPU_SHARE else 0.0

    return share_of
