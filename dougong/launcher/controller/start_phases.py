"""What a start or a recovery is at: named phases, told when one begins and how long it took. Pure:
time is passed in."""

from __future__ import annotations

from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.states import Recovering, Running, Stage, Starting, State
from dougong.records.events import Phase, PhaseEnded, PhaseStarted

_PHASES: dict[Stage, Phase] = {
    Stage.JOIN: "imports",
    Stage.READY: "imports",
    Stage.MODEL: "data",
    Stage.FINGERPRINTS: "probes",
    Stage.CHECKPOINT: "checkpoint",
}
"""The phase of each stage beyond those of the backend, which has its own name."""
_OF_BACKEND = (Stage.BACKEND, Stage.NODES, Stage.PLACES)


class StartPhases:
    """The phase that a run is in, as far as it has come.

    `backend`: what reaching nodes and starting agents is called; `probes`: whether devices are
    probed.
    """

    def __init__(self, backend: Phase, probes: bool) -> None:
        self._backend = backend
        self._probes = probes
        self._phase: Phase | None = None
        self._since = 0.0

    def seconds(self, now: float) -> float:
        """How long the phase has lasted."""
        return now - self._since

    @property
    def current(self) -> Phase | None:
        """None where nothing is prepared: training, or after the end."""
        return self._phase

    def note(
        self, state: State, facts: RunFacts, now: float
    ) -> tuple[PhaseStarted | PhaseEnded, ...]:
        """Where the run is now; the end of the phase before and the beginning of this one, where
        that is news."""
        phase = self._phase_of(state, facts)
        if phase == self._phase:
            return ()
        told: list[PhaseStarted | PhaseEnded] = []
        if self._phase is not None and self._is_done(state):
            seconds = round(self.seconds(now), 3)
            told.append(PhaseEnded(generation=facts.number, phase=self._phase, seconds=seconds))
        if phase is not None:
            told.append(PhaseStarted(generation=facts.number, phase=phase))
        self._phase, self._since = phase, now
        return tuple(told)

    def _is_done(self, state: State) -> bool:
        """Whether the phase has ended well, now that the run is in this state: what a failure or a
        stop has cut short is not told as done."""
        if self._phase == "model":
            return isinstance(state, Running)
        return isinstance(state, Starting | Recovering | Running)

    def _phase_of(self, state: State, facts: RunFacts) -> Phase | None:
        match state:
            case Starting(stage) | Recovering(stage=stage):
                return self._phase_of_stage(stage, facts)
            case Running() if facts.generation is not None and not facts.generation.is_built:
                return "model"
            case _:
                return None

    def _phase_of_stage(self, stage: Stage, facts: RunFacts) -> Phase | None:
        if stage in _OF_BACKEND:
            return self._backend
        # A run's very first start has no checkpoint to look for.
        if stage is Stage.CHECKPOINT and facts.number == 0:
            return None
        if stage is Stage.FINGERPRINTS and not self._probes:
            return None
        return _PHASES.get(stage)
