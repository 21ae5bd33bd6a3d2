"""What torch_npu's own package answers to dougong, in a process that has it and the stub libraries: see `wheel.py`.

Nothing computes here. Tensors are torch's fake ones, whose operators tell shapes and dtypes alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dougong.accelerators.npu import Npu
from dougong.errors import DeviceError
from dougong.ops.experts.ascend_swiglu import NpuSwiGLU, grouped_products, single_products
from dougong.ops.experts.base import Block
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

ROWS, HIDDEN, INNER = 24, 64, 32
COUNTS = (5, 8, 0, 11)
"""Rows of each expert's block."""


def device() -> dict[str, Any]:
    """Devices, as the accelerator opens them and as the rest of dougong asks for them."""
    opened = Npu().open(1)
    module = torch.get_device_module("npu")
    try:
        Npu().open(2)
        refused = ""
    except DeviceError as error:
        refused = str(error)
    return {
        "opened": str(opened),
        "current": torch.accelerator.current_device_index(),
        "accelerator": str(torch.accelerator.current_accelerator()),
        "allow_hf32": [torch.npu.matmul.allow_hf32, torch.npu.conv.allow_hf32],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "name": module.get_device_name(0),
        "memory": module.get_device_properties(0).total_memory,
        "refused": refused,
        "missing": Npu().missing(),
        "operators": [op.products.__name__ for op in Npu().expert_operators()],
    }


def schemas() -> dict[str, list[dict[str, Any]]]:
    """By operator that dougong's forms call: the definitions that the package has, and which have shapes to tell."""
    _load()
    names = ("npu_swiglu", "npu_swiglu_backward", "npu_grouped_matmul")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in names:
        packet = getattr(torch.ops.npu, name)
        for overload in packet.overloads():
            operator = getattr(packet, overload)
            arguments = [
                {
                    "name": one.name,
                    "type": str(one.type),
                    "keyword": one.kwarg_only,
                    "optional": one.has_default_value(),
                }
                for one in operator._schema.arguments
            ]
            qualified = operator._schema.name + ("" if overload == "default" else f".{overload}")
            has_shapes = torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "Meta")
            found[name].append({"overload": overload, "arguments": arguments, "meta": has_shapes})
    return found


def experts() -> list[dict[str, Any]]:
    """A worker's experts forward and backward, by both forms and in both precisions: what comes out, and what a wrong
    call raises."""
    _load()
    found = []
    for products in (grouped_products, single_products):
        for dtype in (torch.float32, torch.bfloat16):
            with FakeTensorMode():
                found.append({"form": products.__name__, **_one_pass(NpuSwiGLU(products), dtype)})
    return found


def mistakes() -> dict[str, str]:
    """What the package refuses by itself: the kind of each error."""
    _load()
    with FakeTensorMode():
        packed = torch.empty(4, 8, device="npu")
        return {
            "another keyword": _error(lambda: torch.ops.npu.npu_swiglu(packed, axis=-1)),
            "a missing argument": _error(lambda: torch.ops.npu.npu_swiglu_backward(packed)),
            "a tensor for a list": _error(lambda: torch.ops.npu.npu_grouped_matmul(packed, packed, split_item=0)),
            "two devices": _error(lambda: packed + torch.empty(4, 8)),
        }


def collectives() -> dict[str, Any]:
    """HCCL as dougong asks torch for it: by name, with a time limit and nothing else."""
    _load()
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder) / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        group = dist.new_group([0], backend=Npu.backend, timeout=timedelta(seconds=600))
        assert group is not None
        backend = group._get_backend(torch.device("npu"))
        told = {
            "default": dist.get_default_backend_for_device("npu"),
            "group": type(backend).__name__,
            "timeout_s": backend.options._timeout.total_seconds(),
            "abort": callable(getattr(backend, "abort", None)),
            "batches": callable(dist.batch_isend_irecv),
            "all_to_all": _exchanged(group),
        }
        dist.destroy_process_group()
    return told


def _exchanged(group: dist.ProcessGroup) -> bool:
    """Whether an all-to-all of uneven parts is taken by the library; what it moves is nobody's business here."""
    sent, room = torch.ones(3, device="npu"), torch.empty(3, device="npu")
    work = dist.all_to_all_single(room, sent, [3], [3], group=group, async_op=True)
    return work is not None


def _load() -> None:
    Npu().open(0)


def _one_pass(op: NpuSwiGLU, dtype: torch.dtype) -> dict[str, Any]:
    def values(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="npu")

    blocks, start = [], 0
    for expert, count in enumerate(COUNTS):
        if count:
            blocks.append(Block(expert, 0, start, count))
            start += count
    shapes = {"gate_up_proj": (2 * INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
    tensors = {e: {name: values(*shape) for name, shape in shapes.items()} for e in range(len(COUNTS))}
    grads = {
        e: {name: values(*shape, dtype=torch.float32) for name, shape in shapes.items()} for e in range(len(COUNTS))
    }
    x_RH, out_RH, dx_RH = values(ROWS, HIDDEN), values(ROWS, HIDDEN), values(ROWS, HIDDEN)
    saved = op.forward(x_RH, blocks, tensors, out_RH)
    op.backward(values(ROWS, HIDDEN), saved, tensors, grads, dx_RH)()
    return {
        "gate_up": _facts(saved.gate_up_R2I),
        "inner": _facts(saved.inner_RI),
        "out": _facts(out_RH),
        "dx": _facts(dx_RH),
        "grad": _facts(grads[0]["down_proj"]),
    }


def _facts(tensor: Tensor) -> Sequence[Any]:
    return [list(tensor.shape), str(tensor.dtype), tensor.device.type]


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # which one is the answer
        return type(error).__name__
    return ""


QUESTIONS: dict[str, Callable[[], Any]] = {
    one.__name__: one for one in (device, schemas, experts, mistakes, collectives)
}

if __name__ == "__main__":
    print(json.dumps({name: QUESTIONS[name]() for name in sys.argv[1].split(",")}))
