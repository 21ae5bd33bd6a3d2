"""The least time of a step over all orders of all operations, by search. Shares no code with the package.

A micro-batch is a chain of tasks on two machines, attention and experts, with a message between; messages of one
direction take turns on one channel. All micro-batches are alike, so only their numbers at each stage count.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION, EXPERTS = 0, 1


@dataclass(frozen=True)
class Ratio:
    """Times of an attention segment and of an experts' wave, forward; `back` times as long backward; one message."""

    attention: float
    experts: float
    message: float
    back: float = 2.0


@dataclass(frozen=True)
class Task:
    """`message`: time of the message that it ends with; None where the next task is on the same machine."""

    machine: int
    time: float
    message: float | None


def chain(num_sites: int, ratio: Ratio) -> list[Task]:
    """One micro-batch from its first to its last task. The last segment turns around without a message."""
    there, back = (
        (Task(ATTENTION, times * ratio.attention, ratio.message), Task(EXPERTS, times * ratio.experts, ratio.message))
        for times in (1.0, ratio.back)
    )
    turn = [Task(ATTENTION, ratio.attention, None)]
    end = [Task(ATTENTION, ratio.back * ratio.attention, None)]
    return [*there * num_sites, *turn, *back * num_sites, *end]


@dataclass(frozen=True)
class State:
    """`jobs`: (tasks done, time from which the next can start) of every micro-batch, sorted. `machine`, `channel`: when
    each of the two machines, and the channel that leads away from it, is free."""

    jobs: tuple[tuple[int, float], ...]
    machine: tuple[float, float]
    channel: tuple[float, float]

    def times(self) -> tuple[float, ...]:
        return (*self.machine, *self.channel, *(ready for _, ready in self.jobs))


def least_makespan(num_sites: int, num_microbatches: int, ratio: Ratio) -> float:
    """Search over active schedules (Giffler and Thompson, 1960): an optimal one is among them. Of states with equal
    progress only those survive that no other one beats in all times."""
    tasks = chain(num_sites, ratio)
    states = [State(((0, 0.0),) * num_microbatches, (0.0, 0.0), (0.0, 0.0))]
    for _ in range(len(tasks) * num_microbatches):
        by_progress: dict[tuple[int, ...], list[State]] = {}
        for state in {after for before in states for after in branches(before, tasks)}:
            by_progress.setdefault(tuple(done for done, _ in state.jobs), []).append(state)
        states = [state for alike in by_progress.values() for state in undominated(alike)]
    return min(max(state.machine) for state in states)


def branches(state: State, tasks: list[Task]) -> list[State]:
    """Every next task that could start before the earliest possible end of any, on that one's machine."""
    starts = {}
    for job, (done, ready) in enumerate(state.jobs):
        if done < len(tasks):
            starts[job] = max(ready, state.machine[tasks[done].machine])
    ends = {job: start + tasks[state.jobs[job][0]].time for job, start in starts.items()}
    first = min(ends, key=ends.__getitem__)
    machine = tasks[state.jobs[first][0]].machine
    rivals = [
        job for job, start in starts.items() if start < ends[first] and tasks[state.jobs[job][0]].machine == machine
    ]
    return [run(state, job, tasks[state.jobs[job][0]], ends[job]) for job in rivals]


def run(state: State, job: int, task: Task, end: float) -> State:
    machine, channel, ready = list(state.machine), list(state.channel), end
    machine[task.machine] = end
    if task.message is not None:
        ready = channel[task.machine] = max(end, channel[task.machine]) + task.message
    jobs = sorted([*state.jobs[:job], (state.jobs[job][0] + 1, ready), *state.jobs[job + 1 :]])
    return State(tuple(jobs), (machine[0], machine[1]), (channel[0], channel[1]))


def undominated(states: list[State]) -> list[State]:
    kept: list[State] = []
    for state in sorted(states, key=State.times):
        times = state.times()
        if not any(all(a <= b for a, b in zip(other.times(), times)) for other in kept):
            kept.append(state)
    return kept
