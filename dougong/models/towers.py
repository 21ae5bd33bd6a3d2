"""The parts of a model that a text does not reach: towers that see or hear, and what leads from
them into the language model.

A job leaves them as they are, also where it trains on images. They go from a folder into every
checkpoint, but have no gradient, no moments and no owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from dougong.models.configs.parts import is_composite, text_config
from dougong.models.patterns import name_patterns


class FrozenParameter(nn.Parameter):
    """A parameter that the family trains and the job does not. Only of models without memory:
    where tensors get memory they become plain parameters without a gradient."""


def freeze(parameter: nn.Parameter) -> None:
    """Leave a parameter of a model on meta without a gradient."""
    if parameter.requires_grad:
        parameter.requires_grad_(False)
        parameter.__class__ = FrozenParameter  # a deep copy keeps the class, and no attribute


def is_of_training(tensor: Tensor) -> bool:
    """Whether the family trains it, frozen or not."""
    return tensor.requires_grad or isinstance(tensor, FrozenParameter)


def freeze_towers(model: nn.Module, config: Any) -> None:
    """Have nothing trained but the language model and its head."""
    if not is_composite(config):
        return
    trained = {id(parameter) for parameter in _of_the_text(model, type(text_config(config)))}
    if not trained:  # no module says that it is the text's: what has no gradient is told in step 1
        return
    for parameter in model.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)


def tower_words(model: nn.Module, is_random: bool) -> str:
    """What is told once of a model's towers; empty where it has none. `is_random`: they do not come
    from a folder."""
    named = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    frozen = [name for name, is_trained in named if not is_trained]
    if not frozen:
        return ""
    patterns = name_patterns(frozen, {name for name, is_trained in named if is_trained})
    values = "with the random values that they begin with" if is_random else "as they are"
    return (
        f"{len(frozen)} tensors are not trained, being no part of the language model: {patterns}; "
        f"they go into checkpoints {values}"
    )


def _of_the_text(model: Any, kind: type) -> Iterator[nn.Parameter]:
    """`kind`: the class of the text part's configuration."""
    found = False
    for module in model.modules():
        if module is not model and isinstance(getattr(module, "config", None), kind):
            found = True
            yield from module.parameters()
    head = model.get_output_embeddings()
    if found and head is not None:
        yield from head.parameters()
