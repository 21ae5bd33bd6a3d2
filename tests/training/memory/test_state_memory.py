"""What a worker keeps of the run's state in its memory."""

from __future__ import annotations

from dougong.job.fault.snapshots import Snapshots
from dougong.parallel.comm.world import World
from dougong.training.memory.state_memory import StateMemory


def test_a_new_process_holds_nothing() -> None:
    memory = StateMemory(Snapshots())
    assert memory.step == 0
    assert memory.open_state(World.alone(), [[("model", "t")]], 0) is None
