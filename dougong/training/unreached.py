"""Tells once which trained tensors the loss does not reach: they stay as they are, whatever the run
costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dougong.errors import ModelError
from dougong.models.patterns import name_patterns
from dougong.training.hooks import StepHook
from dougong.training.replica import Replica
from dougong.training.results.reports import StepResult


class UnreachedNotice(StepHook):
    """After a run's first step, `tell` is called once if there are such tensors. `names`: of
    everything that is trained, or of the modules around it. Raises ModelError where the loss
    reaches none: such a run would go on and learn nothing."""

    def __init__(self, names: Iterable[str], tell: Callable[[str], None]) -> None:
        self._names = frozenset(names)
        self._tell = tell

    def after_update(self, result: StepResult) -> None:
        if result.step != 1 or not result.unreached:
            return
        if self._names <= set(result.unreached):
            raise ModelError(
                f"the loss reaches nothing of what is trained: "
                f"{name_patterns(result.unreached, ())}; name other tensors in model.lora.targets, "
                "or freeze less (model.freeze)"
            )
        self._tell(unreached_words(result.unreached, self._names))


def trained_parts(replica: Replica) -> list[str]:
    """Names of the trained tensors, and of the modules of which experts are trained."""
    return [*replica.trainable, *(site.name for site in replica.sites if site.trained)]


def unreached_words(unreached: Iterable[str], names: Iterable[str]) -> str:
    """What is told of tensors without a gradient; `names` as above, with or without them."""
    unreached = sorted(unreached)
    patterns = name_patterns(unreached, set(names) - set(unreached))
    return (
        f"the loss does not reach {len(unreached)} of the trained tensors: {patterns}; they had no "
        "gradient in step 1 and stay as they are as long as they have none"
    )
