"""What a job's micro-batch keeps in memory, segment by segment, found by running it forward and
backward on the meta device: no family is known, and nothing takes memory.

The model runs as on a worker: by flights and the walk over their tape, with layers that run again
where the job says so. Shapes and the operators' own rules decide what is saved. Attention by
torch's `scaled_dot_product_attention` takes the form that the kind of device has: on meta torch
itself would take the plain one, whose matrices of scores no fused form makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

from dougong.job.schema import Model
from dougong.models.cut import cut
from dougong.models.memory.live_bytes import LiveBytes
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_on_meta
from dougong.parallel.activations import Activations, SegmentBytes
from dougong.parallel.segments.flight import ExpertsCall, Flight, Forward
from dougong.parallel.segments.repeats import LayerRepeats
from dougong.parallel.segments.tape import GraphNode


@dataclass(frozen=True)
class MicroBatchShape:
    """Of one lane: sequences, the tokens of each, and how it is computed. `is_packed`: several
    documents lie in a sequence, kept apart by a mask."""

    num_sequences: int
    num_tokens: int
    dtype: torch.dtype
    recomputes: bool = False
    is_packed: bool = False


def activations_of(
    model: Model, config: Any, microbatch: MicroBatchShape, kind: str, is_fused: bool
) -> Activations:
    """Of the job's model, by its configuration. `kind`: an accelerator's name; `is_fused`: it has a
    fused form of attention. A model that cannot be run without values is no error: `missing` says
    why."""
    try:
        network = tuned_on_meta(model, config, microbatch.dtype)
        segments = _Measurement(network, microbatch, kind, is_fused).run()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Activations(kind, (), f"{type(error).__name__}: {lines[0]}")
    return Activations(kind, tuple(segments))


class _Measurement:
    """One micro-batch's flight, there and back."""

    def __init__(
        self, network: nn.Module, microbatch: MicroBatchShape, kind: str, is_fused: bool
    ) -> None:
        self._microbatch = microbatch
        self._model = network.train()
        sites = find_sites(self._model)
        self._cut = cut(self._model, sites, microbatch.recomputes)
        self._live = LiveBytes(on_meta=True)
        self._attention = _AttentionForm(kind == "cpu", is_fused)
        self._before = 0

    def run(self) -> list[SegmentBytes]:
        forward: list[tuple[int, int]] = []
        backward: list[tuple[int, int]] = []
        flags = _Flags(not self._microbatch.is_packed)
        with self._attention, flags, self._live, torch.no_grad():
            flights = [self._take_off(forward)]
            self._walk_back(flights, backward)
        pairs = zip(forward, reversed(backward), strict=True)
        return [SegmentBytes(*there, *back) for there, back in pairs]

    def _take_off(self, found: list[tuple[int, int]]) -> Flight:
        self._begin()
        given, model = self._microbatch, self._model
        shape = given.num_sequences, given.num_tokens
        ids = torch.zeros(shape, dtype=torch.int64, device="meta")
        more = {"position_ids": torch.zeros_like(ids)} if given.is_packed else {}

        def loss() -> Tensor:
            value: Tensor = model(input_ids=ids, labels=ids, use_cache=False, **more).loss
            return value

        repeats = LayerRepeats() if self._cut.recomputes else None
        flight = _FlightWithoutMemory(Forward(loss), True, repeats)
        flight.start()
        found.append(self._end())
        while flight.loss is None:
            call = flight.calls[-1]
            self._begin()
            answer = torch.empty_like(call.hidden)
            if self._cut.forgets_hidden:
                _forget_hidden(call)
            flight.resume(answer)
            del answer
            found.append(self._end())
        return flight

    def _walk_back(self, flights: list[Flight], found: list[tuple[int, int]]) -> None:
        """`flights`: one, which nobody else holds."""
        flight, sink = flights.pop(), _Nowhere()
        self._begin()
        flight.begin_backward(1.0, sink)
        dout = None
        while flight.calls:
            call, dout = flight.backward_to_call(sink)
            found.append(self._end())
            self._begin()
            dhidden, dweights = torch.empty_like(dout), torch.empty_like(call.weights)
            flight.add_input_gradients(call, dhidden, dweights)
            del dhidden, dweights, call
        flight.end_backward(sink)
        del dout, flight
        found.append(self._end())

    def _begin(self) -> None:
        self._live.begin()
        self._before = self._live.now

    def _end(self) -> tuple[int, int]:
        """The most that was there, and what is."""
        return self._live.peak - self._before, self._live.now - self._before


def _forget_hidden(call: ExpertsCall) -> None:
    """As `ExpertsCall.forget_hidden`, where no tensor has memory."""
    call.hidden = torch.empty(0, dtype=call.hidden.dtype, device="meta")


class _FlightWithoutMemory(Flight):
    """All of its tensors are on meta."""

    def _refuse_without_memory(self, computed: list[Tensor]) -> None:
        pass


class _Nowhere:
    """Gradients of weights are added elsewhere, one by one: nothing of them stays."""

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        pass

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        pass

    def end(self) -> None:
        pass


class _Flags(TorchFunctionMode):
    """Answers a model that asks whether all of a tensor's flags on meta are set: whether a batch
    has no padding, or each sequence one document alone. Other values are refused by torch
    itself."""

    def __init__(self, all_set: bool) -> None:
        super().__init__()
        self._all_set = all_set

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = func in (Tensor.__bool__, Tensor.item)
        if asks and args[0].is_meta and args[0].dtype == torch.bool:
            return self._all_set
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _AttentionCall:
    """The arguments of torch's attention, by its own names."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


class _AttentionForm(TorchFunctionMode):
    """torch's attention by a form whose operators on meta save what the device's own save."""

    def __init__(self, on_processor: bool, is_fused: bool) -> None:
        super().__init__()
        self._on_processor, self._is_fused = on_processor, is_fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._is_fused:
            return self._fused(_AttentionCall(*args, **kwargs))
        return func(*args, **kwargs)

    def _fused(self, call: _AttentionCall) -> Tensor:
        query, key, value = call.query, call.key, call.value
        dropout, causal, scale = call.dropout_p, call.is_causal, call.scale
        if self._on_processor and not _fits_processor(call):
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                call.attn_mask,
                dropout,
                causal,
                scale=scale,
                enable_gqa=call.enable_gqa,
            )
        output: Tensor
        if query.shape[-1] == value.shape[-1]:
            output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout, causal, attn_mask=call.attn_mask, scale=scale
            )[0]
        else:
            output = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, call.attn_mask, True, dropout, causal, scale=scale
            )[0]
        return output


def _fits_processor(call: _AttentionCall) -> bool:
    """Whether a processor's fused form takes such tensors, asked of torch with tensors of one
    number."""
    mask = None if call.attn_mask is None else _without_values(call.attn_mask)
    query, key, value = map(_without_values, (call.query, call.key, call.value))
    choice = torch._fused_sdp_choice(
        query,
        key,
        value,
        mask,
        call.dropout_p,
        call.is_causal,
        scale=call.scale,
        enable_gqa=call.enable_gqa,
    )
    return bool(choice == SDPBackend.FLASH_ATTENTION.value)


def _without_values(tensor: Tensor) -> Tensor:
    """Of the processor, of the same shape, with the memory of its last dimension."""
    last = torch.zeros(tensor.shape[-1], dtype=tensor.dtype)
    found = last.expand(tensor.shape)
    return found.requires_grad_() if tensor.requires_grad else found
