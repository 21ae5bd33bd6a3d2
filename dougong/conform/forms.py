"""Whether a device has an operator: by torch's own table, and by what happens when it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.conform.record import Native

TO_HOST = frozenset({"aten::_to_cpu"})
"""What torch's fall-back to the processor (`at::native::cpu_fallback`) does with its tensors, and
nothing else of what is called here."""
MADE_OF_OTHERS = ("CompositeImplicitAutograd", "CompositeExplicitAutograd")
_NO_KERNEL = frozenset({"aten::detach", "aten::empty", "aten::view", "aten::lift_fresh"})


@dataclass(frozen=True)
class Observed:
    """What a computation has called: operators by name, with the name of the form that was called
    first (`aten::add.Tensor`); whether one of them was run on the host instead."""

    forms: dict[str, str]
    on_host: bool

    @property
    def calls(self) -> tuple[str, ...]:
        return tuple(self.forms)


def observe(compute: Callable[[], Any], device: torch.device) -> Observed:
    """Compute once, and see what is called. The first run should be over: it loads kernels."""
    with _CallNames() as names, profile(use_kineto=False) as seen:
        compute()
    # The names alone: to make torch's own events of them takes longer than what was computed.
    events = {event.name() for event in seen.kineto_results.events()}
    return Observed(names.found, device.type != "cpu" and bool(events & TO_HOST))


class _CallNames(TorchDispatchMode):
    """Names of the operators that reach a device, in the order of their first calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._schema.name)
        if name not in _NO_KERNEL:
            self.found.setdefault(name, str(func.name()))
        return func(*args, **(kwargs or {}))


def form_of(judged: str, observed: Observed, device: torch.device) -> Native:
    """How the device has the operator `judged`: the name of a kernel (`aten::_softmax`), or the
    beginning of several (`aten::_scaled_dot_product`)."""
    if observed.on_host:
        return "missing"
    called = [form for name, form in observed.forms.items() if name.startswith(judged)]
    if not called or _is_composed(called[0], device):
        return "composed"
    return "native"


def _is_composed(name: str, device: torch.device) -> bool:
    """Whether torch makes this operator of others on a device of this kind."""
    key = str(torch._C._dispatch_key_for_device(device.type))
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, key):
        return False
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, k) for k in MADE_OF_OTHERS)
