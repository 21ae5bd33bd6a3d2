"""What is made wrong with the simulated device, one thing at a time, and what the kit must name for it.

`defect`: as `tests/simdev/defects.cpp` knows it, OPERATOR/HOW or METHOD.HOW; `named`: the operators or methods of which
at least one must be named, as what is at fault itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """`is_quick`: it is one of those that `make test` tries."""

    name: str
    named: tuple[str, ...]
    is_quick: bool = False


def _of(name: str, *named: str, quick: bool = False) -> Defect:
    operator = name.partition("/")[0]
    return Defect(name, named or (operator,), quick)


OPERATORS = (
    _of("aten::mm/bf16_inputs"),
    _of("aten::mm/half_sum", quick=True),
    _of("aten::mm/by_place"),
    _of("aten::mm/no_strides"),
    _of("aten::bmm/tail_lost"),
    _of("aten::bmm/jitter"),
    _of("aten::addmm/first_dropped", quick=True),
    _of("aten::addmm.out/scaled", "aten::addmm_", "aten::addmm"),
    _of("aten::sum/jitter", quick=True),
    _of("aten::sum/half_sum"),
    _of("aten::sum/no_strides"),
    _of("aten::sum/empty_is_one"),
    _of("aten::mean/scaled"),
    _of("aten::cumsum/tail_lost"),
    _of("aten::linalg_vector_norm/cut"),
    _of("aten::amax/nan_ignored", quick=True),
    _of("aten::max/tail_lost"),
    _of("aten::argmax/flipped"),
    _of("aten::_softmax/neighbours"),
    _of("aten::_softmax_backward_data/zeroed", "aten::_softmax"),
    _of("aten::_log_softmax/cut"),
    _of("aten::nll_loss_forward/next_index"),
    _of("aten::nll_loss_backward/negated", "aten::nll_loss_forward"),
    _of("aten::native_batch_norm/other_eps", "aten::native_layer_norm", quick=True),
    _of("aten::rsqrt/cut"),
    _of("aten::silu/by_rows"),
    _of("aten::silu/scaled"),
    _of("aten::gelu/as_tanh"),
    _of("aten::gelu_backward/as_tanh", "aten::gelu"),
    _of("aten::mul/by_rows"),
    _of("aten::div/cut"),
    _of("aten::where/tail_lost"),
    _of("aten::lt/inverted"),
    _of("aten::index_select/next_index"),
    _of("aten::gather/next_index"),
    _of("aten::scatter/next_index"),
    _of("aten::index_copy.out/next_index", "aten::index_copy_"),
    _of("aten::embedding_dense_backward/jitter", "aten::embedding"),
    _of("aten::sort/unstable", quick=True),
    _of("aten::topk/flipped"),
    _of("aten::cat/flipped"),
    _of("aten::_fused_adamw_/other_eps", "aten::_fused_adamw"),
    _of("aten::uniform_/scaled"),
)

METHODS = (
    _of("copy.no_strides", "Tensor.copy_"),
    _of("copy.cut", "aten::_to_copy"),
    _of("copy.flushes", "Tensor.to"),
    _of("copy.nothing", "Tensor.to"),
    _of("copy.reads_late", "Tensor.copy_", quick=True),
    _of("copy.pinned_lost", "Tensor.copy_"),
    _of("item.early", "Tensor.item"),
    _of("pin.not_told", "Tensor.pin_memory"),
    _of("wait_event.ignored", "torch.Stream.wait_event", quick=True),
    _of("record_stream.ignored", "Tensor.record_stream", quick=True),
    _of("event.synchronise_ignored", "torch.Event.synchronize"),
    _of("event.always_done", "torch.Event.query"),
    _of("event.no_time", "torch.Event.elapsed_time"),
    _of("stream.synchronise_ignored", "torch.Stream.synchronize"),
    _of("device.synchronises_one_stream", "torch.accelerator.synchronize"),
    _of("device.of_process", "torch.accelerator.set_device_index"),
    _of("stream.of_process", "torch.accelerator.current_stream"),
    _of("memory.not_given_back", "torch.accelerator.memory_allocated"),
    _of("memory.rounded_down", "torch.accelerator.memory_allocated"),
    _of("memory.unaligned", "torch.empty"),
    _of("memory_info.all_free", "torch.accelerator.get_memory_info"),
    _of("peak.now", "torch.accelerator.max_memory_allocated"),
    _of("peak.kept", "torch.accelerator.reset_peak_memory_stats"),
    _of("oom.other_error", "torch.OutOfMemoryError", quick=True),
    _of("oom.counts", "torch.OutOfMemoryError"),
    _of("seed.ignored", "torch.Generator"),
    _of("rng_state.no_offset", "set_rng_state"),
    _of("chance.stands_still", "torch.Generator"),
)

TOGETHER = (
    _of("allreduce.drops_a_rank", "all_reduce", quick=True),
    _of("allgather.other_order", "all_gather", quick=True),
    _of("alltoall.uneven_cut", "all_to_all_single"),
    _of("alltoall.refuses_nothing", "all_to_all_single"),
    _of("broadcast.other_root", "broadcast"),
    _of("send.cut", "batch_isend_irecv"),
    _of("send.reads_early", "stream order"),
)
STEPS = (
    _of("aten::silu/scaled", "the model"),
    _of("aten::_fused_adamw_/other_eps", "training"),
)
