"""torch's operators under the strict switch: who is exempt from it, and who was refused by it.

With `torch.use_deterministic_algorithms(True)` an operator takes its deterministic form, and one
that has none raises. That refuses whole kinds of calls, of which some do have one order: those
stand in `EXEMPTIONS`, each with the reason. Nothing else is ever merely warned of.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dougong.errors import ModelError

if TYPE_CHECKING:
    import torch

# torch raises a bare RuntimeError (`Context::alertNotDeterministic`), so that its words are all
# there is; a test has it raise one.
_REFUSED = re.compile(r"^(\S+) does not have a deterministic implementation")


@dataclass(frozen=True)
class Exemption:
    """Calls of `operator` (aten's, with an `out` form of the same arguments) on devices of type
    `device` that run though the strict switch refuses them: those of which `holds(*arguments)`.
    `families`: of the tested ones, those that need it."""

    operator: str
    device: str
    holds: Callable[..., bool]
    families: tuple[str, ...]
    reason: str


def _has_several_rows(values: torch.Tensor, dim: int, **_: Any) -> bool:
    return values.numel() != values.size(dim)


EXEMPTIONS = (
    Exemption(
        operator="cumsum",
        device="cuda",
        holds=_has_several_rows,
        families=("qwen3_next",),
        reason="torch refuses every sum of floating-point numbers. Only one long row is added by "
        "many blocks in the order in which they come; of several rows each is added by one block, "
        "in a fixed order",
    ),
)


def apply_exemptions(device_type: str, exemptions: Iterable[Exemption] = EXEMPTIONS) -> None:
    """Have torch run what is exempt on devices of this type, in this process; may be called
    again."""
    for exemption in exemptions:
        if exemption.device == device_type:
            _exempted(exemption)


@functools.cache
def _exempted(exemption: Exemption) -> Any:
    """The registration with torch, which ends with this object."""
    import torch

    key = torch._C._dispatch_key_for_device(exemption.device)
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # "Overriding a previously registered kernel": it is meant.
        warnings.simplefilter("ignore")
        library.impl(exemption.operator, exempt_form(exemption), key)
    return library


def exempt_form(exemption: Exemption) -> Callable[..., torch.Tensor]:
    """What stands in an operator's place: it computes by the operator's own kernel, whose `out`
    form nobody has replaced."""
    import torch

    written = getattr(torch.ops.aten, exemption.operator).out

    def run(values: torch.Tensor, *arguments: Any, dtype: torch.dtype | None = None) -> Any:
        whole = values.dtype if values.dtype.is_floating_point else torch.int64
        result = torch.empty_like(values, dtype=dtype or whole)
        if not exemption.holds(values, *arguments):
            return written(values, *arguments, dtype=dtype, out=result)
        before = _mode()
        torch.use_deterministic_algorithms(False)
        try:
            return written(values, *arguments, dtype=dtype, out=result)
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    return run


def refused_operator(error: BaseException) -> str | None:
    """The operator that torch has refused since it has no deterministic form; None where the error
    is another one."""
    found = _REFUSED.match(str(error)) if isinstance(error, RuntimeError) else None
    return None if found is None else found[1]


def refuse_unordered(error: BaseException, where: str) -> None:
    """Raises ModelError from `error` where torch has refused an operator; else nothing. `where`:
    in whose computation that was."""
    operator = refused_operator(error)
    if operator is None:
        return
    raise ModelError(
        f"{where}: torch's operator {operator} has no deterministic form on this device, so that "
        "its bits would be others every time; set determinism: off, or take another "
        "model.attention where it is attention's, or another kind of device"
    ) from error


def _mode() -> tuple[bool, bool]:
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled, torch.is_deterministic_algorithms_warn_only_enabled()
