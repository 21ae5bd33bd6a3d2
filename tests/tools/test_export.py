"""Which form an export has."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.checkpoint.export import has_adapters
from dougong.errors import SourceError
from dougong.tools.export import export_adapters
from tests.checkpoint.saving import save, tiny_model


def test_a_model_without_adapters_has_none_to_export(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, tiny_model("qwen3_moe"))
    assert not has_adapters(checkpoint)
    with pytest.raises(SourceError, match=r"holds no adapters .* export without --adapter"):
        export_adapters(checkpoint, tmp_path / "adapter")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(SourceError, match="is not empty"):
        export_adapters(tmp_path, tmp_path / "out")
