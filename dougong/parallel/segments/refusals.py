"""Where in a model torch has refused an operator: it has no deterministic form, or was given a
tensor that was not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType

from torch import nn

from dougong.accelerators.determinism import refuse_unordered
from dougong.errors import ModelError

_OF_NOTHING = re.compile(
    r"\(0\)|\[0\]|size 0\b|must be 2-D|number of dimensions \(1\)|at least three dimensions"
)
"""What torch's operators say of a tensor [0] in the place of a weight."""


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


def refuse_absent(error: RuntimeError) -> None:
    """Raise ModelError where an operator was given a tensor of no elements: one that comes and goes
    with its module, and was used by another way. Its name is not in torch's words."""
    if _OF_NOTHING.search(str(error)) is not None:
        raise ModelError(
            f"{error}: a tensor of no elements; with dense: shard a tensor outside of the experts "
            "is there only while its own module runs, and this model seems to use one by another "
            "way; set dense: copy"
        ) from error
