"""The model of a checkpoint that has adapters: with them merged, or the adapters alone."""

from __future__ import annotations

from pathlib import Path

from dougong.checkpoint.export import export, has_adapters, refuse_request
from dougong.checkpoint.lora.merging import Merging
from dougong.checkpoint.lora.peft_folder import write_peft_folder
from dougong.checkpoint.lora.stored import stored_adapters
from dougong.errors import SourceError


def export_merged(directory: Path, out: Path, dtype: str) -> list[Path]:
    """`checkpoint.export`, with the adapters merged."""
    with stored_adapters(directory) as stored:
        return export(directory, out, dtype, changes=Merging(stored))


def export_adapters(directory: Path, out: Path, dtype: str = "float32") -> list[Path]:
    """The adapters alone, as peft reads them. Raises SourceError where there are none."""
    refuse_request(out, dtype)
    if not has_adapters(directory):
        raise SourceError(
            f"{directory}: holds no adapters (the job has no model.lora); export without --adapter"
        )
    with stored_adapters(directory) as stored:
        return write_peft_folder(stored, out, dtype)
