"""A folder of peft that a job's adapters go on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from dougong.errors import ModelError
from dougong.job.parts.lora import Lora
from dougong.models.peft_form import CONFIG_FILE, WEIGHTS_FILE, PeftTensor

_AT_ONCE = 4
"""Keys whose tensors are kept: both halves of two matrices of one layer's experts."""
_OTHER_FORMS = (
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
)
"""Keys of peft's configuration by which an adapter is another function than W + alpha / r B A."""


class AdapterFolder:
    """Reads live tensors from it. Raises ModelError, which names the folder, for what is not this
    model's adapter."""

    def __init__(self, path: Path, tensors: Sequence[PeftTensor]) -> None:
        self._path = path
        self._tensors = tensors
        self._places = dict[str, tuple[PeftTensor, int]]()
        for one in tensors:
            self._places |= {name: (one, place) for place, name in enumerate(one.live_names)}
        # A worker reads expert by expert, and each key has all of a layer's.
        self._parts = lru_cache(_AT_ONCE)(self._read_parts)

    def check(self, lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Hold it against the job's section and the shapes of the model's live tensors."""
        for wrong in self._differences(self._config(), lora):
            raise self._refused(CONFIG_FILE, wrong)
        stored = self._shapes()
        wanted = {one.key: one.shape(shapes[one.live_names[0]]) for one in self._tensors}
        for key in sorted(wanted.keys() | stored.keys()):
            if key not in stored:
                raise self._refused(WEIGHTS_FILE, f"holds no {key}, which model.lora.targets name")
            if key not in wanted:
                raise self._refused(
                    WEIGHTS_FILE, f"holds {key}, which model.lora.targets do not name, or is of "
                    "another model"
                )  # fmt: skip
            if stored[key] != wanted[key]:
                raise self._refused(
                    WEIGHTS_FILE,
                    f"{key} has shape {list(stored[key])}, this model's is {list(wanted[key])}: it "
                    "is the adapter of another model, or of another rank",
                )

    @property
    def base(self) -> str | None:
        """The model that it says it belongs to."""
        found = self._config().get("base_model_name_or_path")
        return found if isinstance(found, str) else None

    def read(self, name: str) -> Tensor:
        """A live tensor, float32."""
        one, place = self._places[name]
        return self._parts(one)[place].contiguous()

    def _read_parts(self, one: PeftTensor) -> list[Tensor]:
        with safe_open(self._path / WEIGHTS_FILE, framework="pt") as file:
            whole = file.get_tensor(one.key).float()
        if not whole.isfinite().all():
            raise self._refused(WEIGHTS_FILE, f"{one.key} holds values that are not finite")
        return one.parts(whole)

    def _differences(self, values: Mapping[str, Any], lora: Lora) -> Iterator[str]:
        kind = values.get("peft_type")
        if kind != "LORA":
            yield f"peft_type is {kind!r}; LORA alone is read"
        for key, ours, word in (("r", lora.rank, "rank"), ("lora_alpha", lora.alpha, "alpha")):
            if values.get(key) != ours:
                yield f"{key} is {values.get(key)!r}; set model.lora.{word} to it (it is {ours})"
        for key in _OTHER_FORMS:
            if values.get(key):
                yield f"{key} is {values[key]!r}; such adapters are not trained here"
        if values.get("bias", "none") != "none":
            yield f"bias is {values['bias']!r}; adapters with biases are not trained here"

    def _config(self) -> dict[str, Any]:
        try:
            found = json.loads((self._path / CONFIG_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or f"is not JSON ({error})"
            advice = "give a folder that peft, or `dougong export --adapter`, has written"
            raise self._refused(CONFIG_FILE, f"{reason}; {advice}") from error
        if not isinstance(found, dict):
            raise self._refused(CONFIG_FILE, "holds no JSON object")
        return found

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        try:
            with safe_open(self._path / WEIGHTS_FILE, framework="pt") as file:
                return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # what the library raises of a file that is none
            raise self._refused(WEIGHTS_FILE, f"cannot be read: {error}") from error

    def _refused(self, file: str, reason: str) -> ModelError:
        return ModelError(f"model.lora.path: {self._path / file}: {reason}")
