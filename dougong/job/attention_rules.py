"""Rules about `model.attention`: which form runs on which devices, in which precision."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.accelerators.registry import get_accelerator
from dougong.errors import DeviceError
from dougong.job.rule import Breach, Rule
from dougong.job.schema import Job

_KEY = ("model", "attention")
_NOT_ON_PROCESSORS = {
    "flex": "torch's flexible attention has no backward on processors",
    "flash": "flash_attn has no kernels for processors",
}
_FAST_ENOUGH = "take sdpa, or auto"


def _on_processors(job: Job) -> Iterator[Breach]:
    reason = _NOT_ON_PROCESSORS.get(job.model.attention or "")
    if reason is None:
        return
    names = [
        island.name
        for island in job.islands
        if island.role != "experts" and _is_processor(island.accelerator)
    ]
    if names:
        computes = "computes" if len(names) == 1 else "compute"
        who = f"island{'s' * (len(names) > 1)} {', '.join(names)} {computes} attention on them"
        yield Breach(_KEY, f"{reason}, and {who}; {_FAST_ENOUGH}")


def _is_processor(accelerator: str) -> bool:
    try:
        return get_accelerator(accelerator).shares_machine
    except DeviceError:  # another rule says so
        return False


def _precision(job: Job) -> Iterator[Breach]:
    if job.model.attention == "flash" and job.precision == "float32":
        advice = f"set precision: bfloat16, or {_FAST_ENOUGH}"
        yield Breach(_KEY, f"flash_attn computes in half precision alone; {advice}")


ATTENTION_RULES = (
    Rule(("model", "islands"), _on_processors),
    Rule(("model", "precision"), _precision),
)
