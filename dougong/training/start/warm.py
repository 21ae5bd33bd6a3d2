"""What every worker would do once before its first generation and a fork server can do for all of
them: a worker that takes a lost one's place is then some tenths of a second sooner."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dougong.models.library.conversion import make_tables


def warm(model_types: Sequence[str]) -> None:
    """Import the code of these models and make transformers' tables; opens no device and starts no
    thread. What cannot be imported is left out: whoever builds the model says why."""
    make_tables()
    for model_type in model_types:
        with contextlib.suppress(Exception):
            _import_code(model_type)


def _import_code(model_type: str) -> None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    # Both tables import what they are asked for.
    MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
