"""Which class of transformers builds a model of a configuration.

A family that sees or hears has a configuration with parts, and a class with towers; some have a
second class, of the language model alone.
"""

from __future__ import annotations

from typing import Any


def model_class(config: Any) -> type | None:
    """The class of a model that has a loss for texts; None where transformers has none.

    A folder says in `architectures` by which class it was written: of a family that has a class
    with towers and one without, that one is built again, so that nothing of the folder is lost.
    """
    return _class_with_towers(config) if has_towers(config) else causal_class(config)


def auto_class(config: Any) -> Any:
    """transformers' builder of that class's models."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if has_towers(config) else AutoModelForCausalLM


def has_towers(config: Any) -> bool:
    """Whether its model has more than a language model."""
    kind = _class_with_towers(config)
    if kind is None:
        return False
    named = getattr(config, "architectures", None)
    named = named if isinstance(named, list | tuple) else ()
    return causal_class(config) is None or kind.__name__ in named


def causal_class(config: Any) -> type | None:
    """The class of the language model alone."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return _mapped(MODEL_FOR_CAUSAL_LM_MAPPING, config)


def _class_with_towers(config: Any) -> type | None:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return _mapped(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, config)


def _mapped(mapping: Any, config: Any) -> type | None:
    try:
        kind: type = mapping[type(config)]
    except KeyError:
        return None
    return kind
