"""Where in a model torch has refused an operator that has no deterministic form."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from torch import nn

from dougong.accelerators.determinism import refuse_unordered


def refuse_in_forward(error: RuntimeError) -> None:
    """Raises ModelError, with the module's name, where that is what has ended a forward."""
    refuse_unordered(error, _innermost_module(error))


def refuse_in_backward(error: RuntimeError, node_name: str) -> None:
    """Raises ModelError where that is what has ended the backward of one autograd node."""
    refuse_unordered(error, f"backward ({node_name})")


def _innermost_module(error: BaseException) -> str:
    """The module in whose forward an error was raised: `model.layers.0.self_attn (Attention)`."""
    modules = list(_modules_on_the_way(error.__traceback__))
    if not modules:
        return "the model"
    names = {id(module): name for name, module in modules[0].named_modules()}
    kind, name = type(modules[-1]).__name__, names.get(id(modules[-1]))
    return f"{name} ({kind})" if name else kind


def _modules_on_the_way(traceback: TracebackType | None) -> Iterator[nn.Module]:
    """Those whose methods were being called, the outermost first."""
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            yield owner
        traceback = traceback.tb_next
