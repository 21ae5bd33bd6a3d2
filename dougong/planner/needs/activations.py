"""What a worker holds while a step's forwards and backwards run: a walk along its program. Imports
no torch.

What segments of the model keep is measured (`Inventory.activations`); what dispatch, experts and
combine keep follows from shapes, with experts chosen evenly. An operation adds what it makes, has
for a moment what it throws away, and drops what has been used up; `execute.executor`,
`dispatch.dispatcher` and `execute.shard` say when.

Legend: T tokens of a micro-batch, K choices, H hidden size, I inner size of an expert, b bytes of a
value; R rows and U tokens that come to a worker with experts, V vectors that leave one with lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dougong.job.optimizers.declaration import FLOAT32_BYTES
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Role, Worker
from dougong.parallel.schedules.operation import Kind, Operation, Program
from dougong.parallel.schedules.registry import make_programs
from dougong.planner.needs.dense_units import UnitBytes
from dougong.planner.needs.holdings import copy_bytes
from dougong.planner.needs.programs import num_sites, pipeline_of
from dougong.planner.needs.step_shapes import StepShapes
from dougong.planner.needs.terms import Term, Terms, added

INDEX_BYTES = 8
SLOT_BYTES = 4


class StepActivations:
    """Of all workers of a plan; those of one kind are walked once."""

    def __init__(self, job: Job, inventory: Inventory, plan: Plan) -> None:
        roles: dict[str, Role] = {w.role_in_step: w.role_in_step for w in plan.workers}
        programs = make_programs(
            pipeline_of(job, plan), num_sites(plan), job.batch.microbatches, roles
        )
        self._programs: dict[str, Program] = {one.role: one for one in programs}
        self._shapes = StepShapes(job, inventory, plan)
        self._known: dict[object, Terms] = {}

    @property
    def largest_unit(self) -> tuple[str, int] | None:
        """Of dense tensors that come and go; None where they stay."""
        units = self._shapes.unit_bytes
        return None if units is None else units.largest

    def of(self, worker: Worker) -> Terms:
        """What its device holds at the step's peak, beside what is always there."""
        counts = tuple(map(len, worker.experts))
        kind = worker.role_in_step, worker.island, len(worker.lanes), counts
        if kind not in self._known:
            walk = _Walk(self._shapes, worker, self._programs[worker.role_in_step])
            self._known[kind] = walk.peak()
        return self._known[kind]


@dataclass
class _AliveBytes:
    """What is there by now, by name; the most that was there at a time, and of what it was."""

    now: dict[tuple[object, ...], tuple[Term, int]] = field(default_factory=dict)
    sums: dict[Term, int] = field(default_factory=lambda: dict.fromkeys(Term, 0))
    most: int = 0
    at_most: Terms = field(default_factory=dict)

    def add(self, name: tuple[object, ...], term: Term, num_bytes: int) -> None:
        """Something has been made; what had the name before goes."""
        self.drop(name)
        self.now[name] = term, num_bytes
        self.sums[term] += num_bytes
        self.look(term, 0)

    def drop(self, name: tuple[object, ...]) -> None:
        if name in self.now:
            term, num_bytes = self.now.pop(name)
            self.sums[term] -= num_bytes

    def look(self, term: Term, passing: int) -> None:
        """So many bytes more are there for a moment."""
        total = sum(self.sums.values()) + passing
        if total > self.most:
            self.most, self.at_most = total, added([self.sums, {term: passing}])


class _Walk:
    """Along one worker's program."""

    def __init__(self, shapes: StepShapes, worker: Worker, program: Program) -> None:
        self._shapes, self._program, self._alive = shapes, program, _AliveBytes()
        self._flights: dict[tuple[int, int], int] = {}
        self._sent: dict[Kind, tuple[int, int]] = {}
        self._lanes = len(worker.lanes)
        self._experts = tuple(map(len, worker.experts))
        kinds = {island.name: island.accelerator for island in shapes.job.islands}
        self._segments = shapes.segments(kinds[worker.island])
        self._tokens_here = self._lanes * shapes.tokens
        self._rows_here = self._tokens_here * shapes.choices
        self._is_alone = len(shapes.plan.workers) == 1
        self._at_attention = shapes.job.combine == "at_attention"
        self._recomputes = shapes.job.recompute == "layers"
        self._units = shapes.unit_bytes if self._lanes else None
        self._walks_back = False

    def peak(self) -> Terms:
        actions = self._actions()
        for operation in self._program.operations:
            actions[operation.kind](operation)
        return self._alive.at_most

    def _actions(self) -> Mapping[Kind, Callable[[Operation], None]]:
        return {
            Kind.FORWARD: self._forward,
            Kind.BACKWARD: self._backward,
            Kind.SEND_ROWS: self._send_rows,
            Kind.RECEIVE_OUTPUTS: self._receive_outputs,
            Kind.SEND_OUTPUT_GRADIENTS: self._send_output_gradients,
            Kind.RECEIVE_ROW_GRADIENTS: self._receive_row_gradients,
            Kind.RECEIVE_ROWS: self._receive_rows,
            Kind.EXPERTS_FORWARD: self._experts_forward,
            Kind.SEND_OUTPUTS: self._send_outputs,
            Kind.RECEIVE_OUTPUT_GRADIENTS: self._receive_output_gradients,
            Kind.EXPERTS_BACKWARD: self._experts_backward,
            Kind.WEIGHT_GRADIENTS: self._weight_gradients,
            Kind.SEND_ROW_GRADIENTS: self._send_row_gradients,
        }

    def _send(self, kind: Kind, operation: Operation, num_bytes: int) -> None:
        """A worker that is alone has it until it takes it itself; else it goes with what comes for
        it, or with the next one of its kind at the latest."""
        place = operation.site, operation.microbatch
        if not self._is_alone:
            self._alive.drop(("sent", kind, *self._sent.get(kind, place)))
        self._sent[kind] = place
        self._alive.add(("sent", kind, *place), Term.MESSAGES, num_bytes)

    def _arrive(self, kind: Kind, operation: Operation) -> None:
        """What the worker has sent of this kind, if it has, is with its peers, or with itself."""
        self._alive.drop(("sent", kind, operation.site, operation.microbatch))

    # The attention side

    def _forward(self, operation: Operation) -> None:
        """Lane after lane: each has what its segment takes for a moment beside what the others
        keep. What was measured begins with the answer."""
        segment, microbatch = self._segments[operation.site], operation.microbatch
        if self._units is not None and not self._walks_back:
            weights = self._units.forward(operation.site)
            self._alive.add(("units", "weights"), Term.WEIGHTS, weights)
        for lane in range(self._lanes):
            self._alive.drop(("answer", operation.site - 1, microbatch, lane))
            self._go_on((microbatch, lane), segment.forward, segment.kept)

    def _backward(self, operation: Operation) -> None:
        """The same, beginning with the gradients of what the experts were asked."""
        segment, microbatch = self._segments[operation.site], operation.microbatch
        if self._units is not None:
            self._walk_units(self._units, operation)
        for lane in range(self._lanes):
            self._alive.drop(("given", operation.site, microbatch, lane))
            self._go_on((microbatch, lane), segment.backward, segment.given_back)

    def _walk_units(self, units: UnitBytes, operation: Operation) -> None:
        """Of the last segment, whose forwards come between its backwards, all is there."""
        self._walks_back = True
        is_last = operation.site == len(self._segments) - 1
        weights = (units.forward if is_last else units.backward)(operation.site)
        self._alive.add(("units", "weights"), Term.WEIGHTS, weights)
        sums = self._lanes * units.sums(operation.site)
        self._alive.add(("units", "gradients"), Term.GRADIENTS, sums)

    def _go_on(self, flight: tuple[int, int], passing: int, more: int) -> None:
        """A flight has `more` bytes behind its segment, and `passing` more while it runs."""
        self._alive.look(Term.ACTIVATIONS, passing)
        self._flights[flight] = self._flights.get(flight, 0) + more
        self._alive.add(("flight", *flight), Term.ACTIVATIONS, self._flights[flight])

    def _send_rows(self, operation: Operation) -> None:
        """Who goes where (int64 by slot: two orders, two inverse ones), and the slots' places."""
        shapes, place = self._shapes, (operation.site, operation.microbatch)
        slots = self._rows_here
        kept = slots * (4 * INDEX_BYTES + SLOT_BYTES)
        self._alive.add(("routing", *place), Term.MESSAGES, kept)
        passing = slots // max(1, self._lanes) * (shapes.choices * (1 + INDEX_BYTES) + 64)
        self._alive.look(Term.MESSAGES, passing)
        vectors = self._vectors(operation.site)
        self._send(Kind.SEND_ROWS, operation, vectors)
        self._alive.look(Term.MESSAGES, vectors if self._lanes > 1 else 0)
        if not self._is_alone:
            self._alive.add(("room", "outputs", *place), Term.MESSAGES, self._returned(operation))
            # The next to come of a kind has its room as soon as its size is known.
            self._alive.add(("room", "row gradients"), Term.MESSAGES, self._returned(operation))

    def _vectors(self, site: int) -> int:
        return self._lanes * self._shapes.vectors_by_site[site] * self._shapes.vector

    def _returned(self, operation: Operation) -> int:
        """What comes back: a vector for each row, or for each that has left."""
        if self._at_attention:
            return self._rows_here * self._shapes.vector
        return self._vectors(operation.site)

    def _receive_outputs(self, operation: Operation) -> None:
        shapes, place = self._shapes, (operation.site, operation.microbatch)
        received = self._returned(operation)
        self._alive.drop(("room", "outputs", *place))
        self._arrive(Kind.SEND_ROWS, operation)
        self._arrive(Kind.SEND_OUTPUTS, operation)
        by_lane = received if self._lanes > 1 else 0
        wide = shapes.tokens * shapes.inventory.hidden_size * FLOAT32_BYTES
        self._alive.add(("received",), Term.MESSAGES, received + by_lane)
        for lane in range(self._lanes):
            one = shapes.tokens * shapes.vector
            self._alive.look(Term.MESSAGES, 2 * wide + one)
            self._alive.add(("answer", *place, lane), Term.ACTIVATIONS, one)
        self._alive.drop(("received",))

    def _send_output_gradients(self, operation: Operation) -> None:
        vectors = self._vectors(operation.site)
        self._alive.look(Term.MESSAGES, vectors if self._lanes > 1 else 0)
        self._send(Kind.SEND_OUTPUT_GRADIENTS, operation, vectors)

    def _receive_row_gradients(self, operation: Operation) -> None:
        """The gradients of all lanes' tokens are made before the first walk goes on."""
        shapes, place = self._shapes, (operation.site, operation.microbatch)
        received = self._returned(operation)
        self._arrive(Kind.SEND_OUTPUT_GRADIENTS, operation)
        self._arrive(Kind.SEND_ROW_GRADIENTS, operation)
        by_lane = received if self._lanes > 1 else 0
        wide = shapes.tokens * shapes.inventory.hidden_size * FLOAT32_BYTES
        came = 0 if not self._is_alone else received  # else it lies in the room that waits for it
        self._alive.add(("received",), Term.MESSAGES, came + by_lane)
        for lane in range(self._lanes):
            one = shapes.tokens * (shapes.vector + shapes.choices * FLOAT32_BYTES)
            self._alive.look(Term.MESSAGES, wide + shapes.tokens * shapes.vector)
            self._alive.add(("given", *place, lane), Term.ACTIVATIONS, one)
        self._alive.drop(("received",))
        self._alive.drop(("routing", *place))

    # The experts' side

    def _rows(self, operation: Operation) -> int:
        return self._shapes.rows(self._experts[operation.site])

    def _arriving(self, operation: Operation) -> int:
        """Bytes of the vectors [U, H] of all lanes."""
        shapes = self._shapes
        tokens = shapes.plan.num_lanes * shapes.crossing(self._experts[operation.site])
        return tokens * shapes.vector

    def _receive_rows(self, operation: Operation) -> None:
        place, rows = (operation.site, operation.microbatch), self._rows(operation)
        shapes, arriving = self._shapes, self._arriving(operation)
        slots = arriving // max(1, shapes.vector) * shapes.choices
        self._alive.add(("arrived", *place), Term.MESSAGES, (rows + slots) * INDEX_BYTES)
        self._alive.look(Term.MESSAGES, (0 if self._is_alone else arriving) + rows * 16)
        self._alive.add(("rows", *place), Term.ROWS, rows * shapes.vector)
        self._alive.look(Term.MESSAGES, 0 if self._is_alone else arriving)
        self._arrive(Kind.SEND_ROWS, operation)
        if not self._is_alone:
            self._alive.add(("room", "output gradients"), Term.MESSAGES, arriving)

    def _experts_forward(self, operation: Operation) -> None:
        place, rows = (operation.site, operation.microbatch), self._rows(operation)
        shapes = self._shapes
        self._alive.add(("outputs", *place), Term.ROWS, rows * shapes.vector)
        self._alive.add(("kept", *place), Term.ROWS, self._saved(operation))
        passing = self._padding(operation) + self._block(operation)
        self._alive.look(Term.ROWS, passing + self._merged(operation))
        if not self._keeps_rows(operation):
            self._alive.drop(("rows", *place))

    def _saved(self, operation: Operation) -> int:
        """What the operator saves: of the usual expert three inner values a row, and in tiles the
        rows themselves. One that runs again in the backward saves nothing."""
        shapes = self._shapes
        if self._recomputes or not shapes.inventory.is_swiglu:
            return 0
        rows = shapes.padded_rows(self._experts[operation.site])
        return rows * (3 * shapes.inner + (shapes.vector if shapes.is_tiled else 0))

    def _keeps_rows(self, operation: Operation) -> bool:
        """Whether the rows that came are kept as they are."""
        shapes = self._shapes
        return self._recomputes or not shapes.is_tiled

    def _padding(self, operation: Operation) -> int:
        """Outputs in tiles."""
        shapes = self._shapes
        if not shapes.is_tiled:
            return 0
        rows = shapes.padded_rows(self._experts[operation.site])
        again = rows * (3 * shapes.inner + shapes.vector) if self._recomputes else 0
        return rows * shapes.vector + again

    def _block(self, operation: Operation) -> int:
        """What one product's expert makes for a moment."""
        shapes = self._shapes
        num = self._experts[operation.site]
        rows = self._rows(operation) // max(1, num * shapes.plan.num_lanes)
        return rows * (2 * shapes.inner)

    def _send_outputs(self, operation: Operation) -> None:
        place = operation.site, operation.microbatch
        shapes = self._shapes
        num_bytes = self._rows(operation) * shapes.vector
        if not self._at_attention:
            wide = self._arriving(operation) // copy_bytes(shapes.job) * FLOAT32_BYTES
            self._alive.look(Term.MESSAGES, wide + num_bytes)
            num_bytes = self._arriving(operation)
        if not self._keeps_outputs():
            self._alive.drop(("outputs", *place))
            self._send(Kind.SEND_OUTPUTS, operation, num_bytes)

    def _keeps_outputs(self) -> bool:
        return not self._recomputes and self._program.waves_of_a_site <= 1

    def _receive_output_gradients(self, operation: Operation) -> None:
        place, rows = (operation.site, operation.microbatch), self._rows(operation)
        self._alive.add(("douts", *place), Term.ROWS, rows * self._shapes.vector)
        self._arrive(Kind.SEND_OUTPUTS, operation)
        self._arrive(Kind.SEND_OUTPUT_GRADIENTS, operation)

    def _experts_backward(self, operation: Operation) -> None:
        """Gradients of outputs weighed, those of rows, the outputs again, and inside of experts."""
        place, rows = (operation.site, operation.microbatch), self._rows(operation)
        shapes = self._shapes
        vectors = rows * shapes.vector
        wide = rows * shapes.inventory.hidden_size * FLOAT32_BYTES
        self._alive.look(Term.ROWS, vectors + (wide if wide != vectors else 0))
        self._alive.add(("weighed", *place), Term.ROWS, vectors)
        self._alive.add(("drows", *place), Term.ROWS, vectors)
        again = 0 if self._keeps_outputs() else vectors
        inside = self._inside_backward(operation) + self._adapted(operation)
        self._alive.look(Term.ROWS, again + inside + self._block(operation))
        self._alive.look(Term.ROWS, again + vectors + inside)
        self._alive.drop(("douts", *place))
        self._alive.drop(("outputs", *place))
        kept = self._inside_kept(operation) + self._adapted(operation)
        self._alive.add(("inside", *place), Term.ROWS, kept)

    def _merged(self, operation: Operation) -> int:
        """Weights with their adapters in them, and for a moment one of them in float32."""
        shapes = self._shapes
        one = shapes.inventory.adapted_parameters
        experts = self._experts[operation.site] * copy_bytes(shapes.job)
        return one * (experts + FLOAT32_BYTES)

    def _adapted(self, operation: Operation) -> int:
        """The same, and the gradients of such weights, from which those of adapters follow."""
        gradients = FLOAT32_BYTES * self._experts[operation.site]
        return self._merged(operation) + gradients * self._shapes.inventory.adapted_parameters

    def _inside_backward(self, operation: Operation) -> int:
        """Gradients of two inner values a row, and in tiles of rows there and back."""
        shapes = self._shapes
        rows = shapes.padded_rows(self._experts[operation.site])
        if not shapes.inventory.is_swiglu:  # one product after the other, by autograd
            return shapes.inventory.expert_parameters * copy_bytes(shapes.job)
        inner = rows * 2 * shapes.inner
        saved = rows * (3 * shapes.inner + shapes.vector) if self._recomputes else 0
        # Outputs are written again where they were not kept and nothing else has brought them.
        copies = 2 if self._recomputes or self._keeps_outputs() else 3
        return inner + saved + (copies * rows * shapes.vector if shapes.is_tiled else 0)

    def _inside_kept(self, operation: Operation) -> int:
        """What the gradients of weights still need."""
        shapes = self._shapes
        if not shapes.inventory.is_swiglu:
            return 0
        rows = shapes.padded_rows(self._experts[operation.site])
        again = 3 * shapes.inner + (shapes.vector if shapes.is_tiled else 0)
        kept = rows * (2 * shapes.inner + (again if self._recomputes else 0))
        return kept + (rows * shapes.vector if shapes.is_tiled else 0)

    def _weight_gradients(self, operation: Operation) -> None:
        place = operation.site, operation.microbatch
        shapes = self._shapes
        if copy_bytes(shapes.job) != FLOAT32_BYTES:
            largest = max(shapes.inventory.sizes_of_an_expert, default=0)
            self._alive.look(Term.ROWS, largest * copy_bytes(shapes.job))
        for name in ("inside", "kept", "rows", "weighed"):
            self._alive.drop((name, *place))

    def _send_row_gradients(self, operation: Operation) -> None:
        place = operation.site, operation.microbatch
        num_bytes = self._rows(operation) * self._shapes.vector
        self._alive.drop(("drows", *place))
        self._alive.drop(("arrived", *place))
        self._send(Kind.SEND_ROW_GRADIENTS, operation, num_bytes)


def unknown_activations(inventory: Inventory) -> Iterator[str]:
    """Why activations are not counted, once for each reason."""
    yield from dict.fromkeys(one.missing for one in inventory.activations if one.missing)
